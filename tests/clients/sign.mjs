// The headers with which a service's own library signs a body:
// node sign.mjs <library> <secret> <body> <unix seconds>
import { createHmac } from "node:crypto";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const [library, secret, body, time] = process.argv.slice(2);
const seconds = Number(time);
const json = { "content-type": "application/json" };

const libraries = {
  stripe() {
    const Stripe = require("stripe");
    const stripe = new Stripe("sk_test_nothing");
    const header = stripe.webhooks.generateTestHeaderString({ payload: body, secret, timestamp: seconds });
    return { ...json, "stripe-signature": header };
  },
  async github() {
    const { sign } = await import("@octokit/webhooks-methods");
    return {
      ...json,
      "x-hub-signature-256": await sign(secret, body),
      "x-github-event": "issues",
      "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
    };
  },
  twilio() {
    const { getExpectedTwilioSignature } = require("twilio/lib/webhooks/webhooks.js");
    const fields = Object.fromEntries(new URLSearchParams(body));
    const url = "https://gw.acme.com/in/twilio";
    return {
      "content-type": "application/x-www-form-urlencoded",
      "x-twilio-signature": getExpectedTwilioSignature(secret, url, fields),
      "i-twilio-idempotency-token": "c4b1b5a5-7f43-4b9c-9d3d-8a2d0e8c8f00",
    };
  },
  svix() {
    const { Webhook } = require("svix");
    const signature = new Webhook(secret).sign("msg_1", new Date(seconds * 1000), body);
    return { ...json, "svix-id": "msg_1", "svix-timestamp": time, "svix-signature": signature };
  },
  // Slack has no library that signs: the three lines of its documentation.
  slack() {
    const code = createHmac("sha256", secret).update(`v0:${time}:${body}`).digest("hex");
    return { ...json, "x-slack-request-timestamp": time, "x-slack-signature": `v0=${code}` };
  },
};

console.log(JSON.stringify(await libraries[library]()));
