// Receivers as their systems' documents show them, as handlers of a real Express server. Each answers
// 200 to a webhook that verifies, and 401 to one that does not. Prints the port when it listens, and
// ends with its standard input.
//
// The secret is SECRET, in the scheme's own form: `whsec_…` for Standard Webhooks, the same text for
// all others.
import crypto from "node:crypto";
import { verify as verifyOctokit } from "@octokit/webhooks-methods";
import express from "express";
import { Webhook } from "standardwebhooks";
import Stripe from "stripe";

const secret = process.env.SECRET;
const app = express();
const raw = express.raw({ type: "*/*", limit: "2mb" });
const json = express.json({ limit: "2mb" });

const hex = (algorithm, ...parts) => {
  const hmac = crypto.createHmac(algorithm, secret);
  for (const part of parts) hmac.update(part);
  return hmac.digest("hex");
};
const same = (one, other) => {
  const [a, b] = [Buffer.from(one), Buffer.from(other)];
  return a.length === b.length && crypto.timingSafeEqual(a, b);
};
const receive = (path, parser, check) =>
  app.all(path, parser, async (request, response) => {
    try {
      response.status((await check(request)) ? 200 : 401).end();
    } catch (error) {
      response.status(401).end(String(error));
    }
  });

// systems/000 and 001: the raw body is signed, the digest is made before the JSON is parsed.
receive("/ingestlayer", raw, (request) => {
  const fields = request.get("x-ingestlayer-signature").split(",").map((it) => it.split("="));
  const time = fields.find(([name]) => name === "t")[1];
  const expected = hex("sha256", `${time}.`, request.body);
  JSON.parse(request.body);
  return fields.some(([name, value]) => name === "v1" && same(value, expected));
});

// systems/002.
receive("/admin", raw, (request) =>
  same(request.get("x-admin-signature"), `sha256=${hex("sha256", request.body)}`));

// systems/004, and 003 which speaks of "the shared secret and request body".
receive("/single", json, (request) =>
  request.get("x-signature") === hex("sha1", Buffer.from(JSON.stringify(request.body), "utf-8")));
receive("/first", json, (request) =>
  Array.isArray(request.body) &&
  request.get("x-signature") === hex("sha1", JSON.stringify(request.body[0])));
receive("/whole", json, (request) =>
  Array.isArray(request.body) &&
  request.get("x-signature") === hex("sha1", JSON.stringify(request.body)));

// The libraries of others who use the same schemes.
receive("/standard", raw, (request) =>
  Boolean(new Webhook(secret).verify(request.body.toString("utf8"), request.headers)));
receive("/stripe", raw, (request) =>
  Boolean(Stripe.webhooks.constructEvent(request.body, request.get("stripe-signature"), secret)));
receive("/octokit", raw, (request) =>
  verifyOctokit(secret, request.body.toString("utf8"), request.get("x-hub-signature-256")));

// What is no JSON at all; Express knows an error handler by its four parameters.
app.use((_error, _request, response, _next) => response.status(400).end());

const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
