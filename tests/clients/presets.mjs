// The headers with which services sign that have no library for it, from their documentation, by Node's own
// crypto. A list of `{ service, secret, body, time }` comes in; a list of headers goes out.
import { createHmac, createPrivateKey, createSign, sign as signBytes } from "node:crypto";

const hmac = (algorithm, secret, text, encoding) => createHmac(algorithm, secret).update(text).digest(encoding);
const standard = (prefix, secret, body, time) => {
  const key = Buffer.from(secret.slice("whsec_".length), "base64");
  return {
    [`${prefix}-id`]: "msg_1",
    [`${prefix}-timestamp`]: time,
    [`${prefix}-signature`]: `v1,${hmac("sha256", key, `msg_1.${time}.${body}`, "base64")}`,
  };
};

const services = {
  shopify: (secret, body) => ({
    "x-shopify-hmac-sha256": hmac("sha256", secret, body, "base64"),
    "x-shopify-topic": "orders/create",
    "x-shopify-webhook-id": "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
  }),
  "standard-webhooks": (secret, body, time) => standard("webhook", secret, body, time),
  svix: (secret, body, time) => standard("svix", secret, body, time),
  // The secret is the private key here, as PKCS #8 in base64.
  "standard-ed25519": (secret, body, time) => {
    const key = createPrivateKey({ key: Buffer.from(secret, "base64"), format: "der", type: "pkcs8" });
    const code = signBytes(null, Buffer.from(`msg_2.${time}.${body}`), key).toString("base64");
    return { "webhook-id": "msg_2", "webhook-timestamp": time, "webhook-signature": `v1a,${code}` };
  },
  gitlab: (secret) => ({ "x-gitlab-token": secret, "idempotency-key": "f5e5f430-f57b-4e6e-9fac-d9128cd7232f" }),
  sendgrid: (secret, body, time) => {
    const key = createPrivateKey({ key: Buffer.from(secret, "base64"), format: "der", type: "pkcs8" });
    const code = createSign("sha256").update(time + body).sign(key, "base64");
    return { "x-twilio-email-event-webhook-signature": code, "x-twilio-email-event-webhook-timestamp": time };
  },
  paddle: (secret, body, time) => ({ "paddle-signature": `ts=${time};h1=${hmac("sha256", secret, `${time}:${body}`, "hex")}` }),
  stripe: (secret, body, time) => ({
    "stripe-signature": `t=${time},v1=${"0".repeat(64)},v1=${hmac("sha256", secret, `${time}.${body}`, "hex")},v0=x`,
  }),
  // The body is the URL here: what Twilio signs where it posts JSON, whose hash stands in the URL.
  "twilio-json": (secret, url) => ({ "x-twilio-signature": hmac("sha1", secret, url, "base64") }),
  segment: (secret, body) => ({ "x-signature": hmac("sha1", secret, body, "hex") }),
  customerio: (secret, body) => ({ "x-signature": hmac("sha1", secret, body, "hex") }),
  hmac: (secret, body, time) => ({
    "x-acme-signature": `v7=${hmac("sha512", secret, `${time}|order-1|${body}`, "base64")}`,
    "x-acme-time": time,
    "x-acme-id": "order-1",
  }),
  basic: (secret) => ({ authorization: `Basic ${Buffer.from(secret).toString("base64")}` }),
  bearer: (secret) => ({ authorization: `Bearer ${secret}` }),
  "api-key": (secret) => ({ "x-acme-key": secret }),
};

let text = "";
for await (const part of process.stdin) text += part;
const requests = JSON.parse(text);
console.log(JSON.stringify(requests.map(({ service, secret, body, time }) => services[service](secret, body, time))));
