// What compiles with events.ts, and what must not: tsc fails where an expected error does not come.
import { configure, ingest, Tidegate, TidegateError, verify, type EventMap, type Receipt } from "@tidegate/sdk";
import { webhook as express } from "@tidegate/sdk/express";
import { webhook as fastify } from "@tidegate/sdk/fastify";
import { webhook as hono, type WithDelivery } from "@tidegate/sdk/hono";
import { webhook as next } from "@tidegate/sdk/next";
import Express from "express";
import Fastify from "fastify";
import { Hono } from "hono";

import type { FeatureUsed } from "./events.js";

configure({ url: "http://127.0.0.1:9", apiKey: "tg_x", onDrop: (event, error: TidegateError) => [event.type, error.code] });

const receipt: Receipt = await ingest("user.signed_up", { user_id: "u", email: "e", plan: "pro", source: "s" }, { timestamp: new Date() });
receipt.duplicate satisfies boolean;
const used: FeatureUsed = { user_id: "u", feature: "f", count: 1, plan: "p" };
await ingest("feature.used", used);
await ingest("123.numeric", 7);
await ingest("event.map", { ok: true });
await ingest("odd.names", { "user-id": "u", "a b": 1, "1st": null, "quote\"d\\": "*/ \u2028 end" });
await ingest("geo.moved", { position: [1, 2], track: [{ lat: 1, lon: 2 }], old: ["a", 1, null], tags: ["a"] });
await ingest("order.completed", { id: "i", total: 1, payment: { kind: "invoice" }, coupon: null, tree: { name: "a", children: [{ name: "b" }] } });
await ingest("prefs.changed", { labels: { a: "b" }, scores: { total: 1, x: 2 }, anything: { a: [1] }, nothing: {}, list: { labels: {} } });
await ingest("unregistered.schema", { what: "ever" });

// @ts-expect-error: no such type
await ingest("user.signed_ip", { user_id: "u" });
// @ts-expect-error: a property is missing
await ingest("user.signed_up", { user_id: "u", email: "e", plan: "pro" });
// @ts-expect-error: a wrong name
await ingest("feature.used", { user_id: "u", feature: "f", count: 1, plan: "p", colour: "red" });
// @ts-expect-error: a wrong type
await ingest("feature.used", { user_id: "u", feature: "f", count: "1", plan: "p" });
// @ts-expect-error: none of the enum
await ingest("user.signed_up", { user_id: "u", email: "e", plan: "gold", source: "s" });
// @ts-expect-error: too long a tuple
await ingest("geo.moved", { position: [1, 2, 3, 4] });
// @ts-expect-error: too short
await ingest("geo.moved", { position: [1] });
// @ts-expect-error: a field of a part
await ingest("geo.moved", { position: [1, 2], track: [{ lat: 1, lon: 2, height: 3 }] });
// @ts-expect-error: of neither alternative
await ingest("order.completed", { id: "i", total: 1, payment: { kind: "card" } });
// @ts-expect-error: an option that there is not
await ingest("feature.used", used, { idempotency_key: "k" });

// A map of one's own, for one client.
interface Mine {
  "a.b": { n: number };
}
const mine = new Tidegate<Mine>();
await mine.ingest("a.b", { n: 1 });
// @ts-expect-error: of the other map
await mine.ingest("feature.used", used);
const anything = new Tidegate<Record<string, unknown>>();
await anything.ingest("x", [1]);
type Names = keyof EventMap;
"user.signed_up" satisfies Names;

const secret = process.env["SECRET"];
Express().post("/hooks", express(secret), (request, response) => void response.json(request.body));
Fastify().post("/hooks", fastify(secret), async (request) => request.body);
new Hono<WithDelivery>().post("/hooks", hono(secret), (c) => c.text(c.get("delivery").scheme));
export const POST: (request: Request) => Promise<Response> = next(secret, (delivery) => Response.json(delivery.id));
(await verify("{}", new Headers(), ["a", "b"], { scheme: "stamped", tolerance: 60 })).timestamp satisfies Date | null;
