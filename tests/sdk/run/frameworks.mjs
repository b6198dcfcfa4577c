// A receiver in each framework, on a port of its own. Prints the ports, and each delivery that was believed.
import { once } from "node:events";
import { serve } from "@hono/node-server";
import express from "express";
import Fastify from "fastify";
import { Hono } from "hono";
import { deliveryOf as expressDelivery, webhook as forExpress } from "@tidegate/sdk/express";
import { deliveryOf as fastifyDelivery, webhook as forFastify } from "@tidegate/sdk/fastify";
import { webhook as forHono } from "@tidegate/sdk/hono";
import { webhook as forNext } from "@tidegate/sdk/next";

const secret = process.env.SECRET;
const got = (framework, { id, scheme, json }, body) =>
  console.log("delivery", JSON.stringify({ framework, id, scheme, type: json.type, same: JSON.stringify(body) === JSON.stringify(json) }));

const app = express();
app.post("/hooks", forExpress(secret), (request, response) => {
  got("express", expressDelivery(request), request.body);
  response.sendStatus(204);
});
// With a parser in front that keeps the raw body.
app.post("/raw", express.raw({ type: "*/*" }), forExpress(secret), (request, response) => {
  got("express-raw", expressDelivery(request), request.body);
  response.sendStatus(204);
});
const expressServer = app.listen(0, "127.0.0.1");
await once(expressServer, "listening");

const fastify = Fastify();
fastify.post("/hooks", forFastify(secret), async (request, reply) => {
  got("fastify", fastifyDelivery(request), request.body);
  return reply.code(204).send();
});
await fastify.listen({ port: 0, host: "127.0.0.1" });

const hono = new Hono();
hono.post("/hooks", forHono(secret), async (c) => {
  got("hono", c.get("delivery"), await c.req.json());
  return c.body(null, 204);
});
const listening = (fetch) => new Promise((done) => serve({ fetch, port: 0, hostname: "127.0.0.1" }, (it) => done(it.port)));

const next = forNext(secret, (delivery) => got("next", delivery, delivery.json));

const ports = {
  express: expressServer.address().port,
  fastify: fastify.server.address().port,
  hono: await listening(hono.fetch),
  next: await listening(next),
};
console.log("listening", JSON.stringify(ports));
// Until our input ends.
for await (const _ of process.stdin);
process.exit(0);
