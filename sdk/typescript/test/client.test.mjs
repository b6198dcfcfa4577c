import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";

import { Tidegate, TidegateError } from "@tidegate/sdk";
import { gateway } from "./server.mjs";

const started = async (t, behave, options = {}) => {
  const server = await gateway(behave);
  t.after(server.close);
  const dropped = [];
  const onDrop = (event, error) => dropped.push([event, error.code]);
  const client = new Tidegate({ url: server.url, apiKey: "tg_test", onDrop, ...options });
  return { server, client, dropped };
};

test("an event is posted as the API has it, and the promise says what became of it", async (t) => {
  const { server, client } = await started(t);
  const receipt = await client.ingest(
    "user.signed_up",
    { plan: "pro" },
    { idempotencyKey: "u-1", timestamp: new Date(0), metadata: { region: "eu" }, source: "app" },
  );
  const { headers, url, events } = server.requests[0];
  assert.equal(url, "/api/v1/events/batch");
  assert.equal(headers.authorization, "Bearer tg_test");
  assert.match(headers["user-agent"], /^tidegate-sdk\//);
  const { id, ...rest } = events[0];
  assert.deepEqual(rest, {
    type: "user.signed_up",
    payload: { plan: "pro" },
    timestamp: "1970-01-01T00:00:00.000Z",
    idempotency_key: "u-1",
    metadata: { region: "eu" },
    source: "app",
  });
  assert.match(id, /^evt_0[0-7][0-9a-hjkmnp-tv-z]{24}$/);
  assert.deepEqual(receipt, { id, duplicate: false });
  const again = await client.ingest("user.signed_up", { plan: "pro" }, { idempotencyKey: "u-1" });
  assert.deepEqual(again, { id, duplicate: true, sameBody: true, sameType: true });
  const other = await client.ingest("user.deleted", { plan: "pro" }, { idempotencyKey: "u-1" });
  assert.deepEqual(other, { id, duplicate: true, sameBody: true, sameType: false });
});

test("what is ingested together shares a request, in order", async (t) => {
  const { server, client } = await started(t, undefined, { flushInterval: 60_000, flushAt: 50 });
  const all = Array.from({ length: 50 }, (_, n) => client.ingest("n", n));
  await Promise.all(all);
  assert.equal(server.requests.length, 1);
  assert.deepEqual(server.requests[0].events.map((it) => it.payload), [...all.keys()]);
});

test("after the interval what waits is sent, and flush does not wait for it", async (t) => {
  const { server, client } = await started(t, undefined, { flushInterval: 20 });
  await client.ingest("one", {});
  const slow = new Tidegate({ url: server.url, apiKey: "tg_test", flushInterval: 60_000 });
  const receipt = slow.ingest("two", {});
  await slow.flush();
  assert.equal((await receipt).duplicate, false);
  assert.equal(slow.pending, 0);
  assert.equal(server.kept.size, 2);
});

test("a request that failed is sent again until it is taken, and each event is kept once", async (t) => {
  const moods = [
    { status: 503, headers: { "retry-after": "0" }, body: "<html>" },
    "reset",
    "hang",
    { keeps: true, then: "reset" },
  ];
  const { server, client } = await started(t, ({ number }) => moods[number], { timeout: 100 });
  const receipts = await Promise.all(Array.from({ length: 10 }, (_, n) => client.ingest("n", n)));
  assert.equal(server.requests.length, moods.length + 1);
  assert.equal(server.kept.size, 10);
  const kept = new Set([...server.kept.values()].map((it) => it.id));
  // That it was kept by an earlier try makes no duplicate of it.
  assert.ok(receipts.every((it) => it.duplicate === false && kept.has(it.id)));
});

test("Retry-After is waited for", async (t) => {
  const { server, client } = await started(t, ({ number }) =>
    number === 0 ? { status: 429, headers: { "retry-after": "1" } } : undefined,
  );
  const start = performance.now();
  await client.ingest("n", 1);
  assert.ok(performance.now() - start >= 1000);
  assert.equal(server.requests.length, 2);
});

test("an event that the gateway rejects fails alone, with what is wrong", async (t) => {
  const errors = [{ field: "type", rule: "a rule", found: "another text" }];
  const { client, dropped } = await started(t, ({ events }) => ({
    status: 202,
    body: JSON.stringify({
      results: events.map((it) => (it.type === "bad" ? { status: "rejected", errors } : { status: "accepted", id: it.id })),
    }),
  }));
  const [good, bad] = await Promise.allSettled([client.ingest("good", 1), client.ingest("bad", 2)]);
  assert.equal(good.status, "fulfilled");
  assert.ok(bad.reason instanceof TidegateError);
  assert.deepEqual([bad.reason.code, bad.reason.errors], ["rejected", errors]);
  assert.match(bad.reason.message, /type: a rule; found another text/);
  assert.deepEqual(dropped.map(([event, code]) => [event.payload, code]), [[2, "rejected"]]);
});

test("when every event of a batch is at fault, each is told its own", async (t) => {
  const errors = [0, 1].map((n) => ({ field: `events[${n}].type`, rule: `rule ${n}`, found: "x" }));
  const body = JSON.stringify({ title: "What is asked for cannot be done", errors });
  const { client } = await started(t, () => ({ status: 422, body }));
  const results = await Promise.allSettled([client.ingest("a", 1), client.ingest("b", 2)]);
  assert.deepEqual(
    results.map((it) => it.reason.errors),
    [0, 1].map((n) => [{ field: "type", rule: `rule ${n}`, found: "x" }]),
  );
});

test("a wrong key or URL is said at once, and nothing is tried again", async (t) => {
  for (const [told, message] of [
    [{ status: 401, body: '{"title":"A valid API key is needed"}' }, /A valid API key is needed \(401\)/],
    [{ status: 301, headers: { location: "http://127.0.0.1:9/" } }, /redirects/],
    [{ status: 200, body: "<html>hello" }, /no Tidegate/],
  ]) {
    const { server, client } = await started(t, () => told);
    await assert.rejects(client.ingest("n", 1), { code: "refused", message });
    assert.equal(server.requests.length, 1);
  }
  await assert.rejects(new Tidegate({ onDrop() {} }).ingest("n", 1), { code: "unconfigured" });
});

test("a request that is too large is halved until it fits", async (t) => {
  const { server, client } = await started(t, ({ events }) => (events.length > 3 ? { status: 413 } : undefined));
  await Promise.all(Array.from({ length: 16 }, (_, n) => client.ingest("n", n)));
  assert.equal(server.kept.size, 16);
  const { client: hopeless } = await started(t, () => ({ status: 413, body: '{"title":"The body is too large"}' }));
  await assert.rejects(hopeless.ingest("n", 1), { code: "rejected", status: 413 });
});

test("the queue has bounds, and what does not fit is told", async (t) => {
  const { client, dropped } = await started(t, undefined, { queueEvents: 2, flushInterval: 60_000 });
  const kept = [client.ingest("n", 1), client.ingest("n", 2)];
  await assert.rejects(client.ingest("n", 3), { code: "queue-full" });
  assert.deepEqual(dropped.map(([event, code]) => [event.payload, code]), [[3, "queue-full"]]);
  await client.flush();
  await Promise.all(kept);
  const { client: small } = await started(t, undefined, { queueBytes: 400 });
  await assert.rejects(small.ingest("n", "é".repeat(200)), { code: "queue-full" });
});

test("an event is given up when its time is over", async (t) => {
  const { client } = await started(t, () => ({ status: 503 }), { retryFor: 300 });
  await assert.rejects(client.ingest("n", 1), (error) => error.code === "expired" && error.cause.status === 503);
  assert.equal(client.pending, 0);
});

test("the caller may give an event up", async (t) => {
  const { client, server } = await started(t, undefined, { flushInterval: 60_000 });
  const aborter = new AbortController();
  const gone = client.ingest("n", 1, { signal: aborter.signal });
  const stays = client.ingest("n", 2);
  aborter.abort();
  await assert.rejects(gone, { code: "aborted" });
  await client.flush();
  await stays;
  assert.deepEqual(server.requests[0].events.map((it) => it.payload), [2]);
});

test("what is no JSON is refused before it is sent", async (t) => {
  const { client, server } = await started(t);
  const circle = {};
  circle.circle = circle;
  for (const payload of [undefined, 1n, circle, () => 1]) {
    await assert.rejects(client.ingest("n", payload), { code: "invalid" });
  }
  await assert.rejects(client.ingest("n", 1, { timestamp: new Date(NaN) }), { code: "invalid" });
  assert.equal(server.requests.length, 0);
});

test("close sends what waits, and drops what has no answer in time", async (t) => {
  const { client, server } = await started(t, undefined, { flushInterval: 60_000 });
  const kept = client.ingest("n", 1);
  assert.equal(await client.close(), 0);
  await kept;
  await assert.rejects(client.ingest("n", 2), { code: "closed" });
  const { client: other } = await started(t, () => "hang");
  const lost = other.ingest("n", 3);
  assert.equal(await other.close({ timeout: 50 }), 1);
  await assert.rejects(lost, { code: "closed" });
  assert.equal(server.kept.size, 1);
});

test("a process that ends sends what waits, also when nobody waits for it", async (t) => {
  const moods = [{ status: 503 }];
  const { server } = await started(t, ({ number }) => moods[number]);
  const script = `
    import { ingest, configure } from "@tidegate/sdk";
    configure({ flushInterval: 3_600_000 });
    ingest("n", 1);
    ingest("n", 2);
  `;
  const env = { ...process.env, TIDEGATE_URL: server.url, TIDEGATE_API_KEY: "tg_test" };
  await new Promise((done, fail) =>
    execFile(process.execPath, ["--input-type=module", "-e", script], { env }, (error) =>
      error ? fail(error) : done(),
    ),
  );
  assert.equal(server.kept.size, 2);
});

test("a failure that nobody looks at does not end the process", async (t) => {
  const { server } = await started(t, () => ({ status: 401 }));
  const script = `import { ingest } from "@tidegate/sdk"; ingest("n", 1);`;
  const env = { ...process.env, TIDEGATE_URL: server.url, TIDEGATE_API_KEY: "tg_secret" };
  const said = await new Promise((done, fail) =>
    execFile(process.execPath, ["--input-type=module", "-e", script], { env }, (error, _, stderr) =>
      error ? fail(error) : done(stderr),
    ),
  );
  assert.match(said, /tidegate: an event `n` was not kept/);
  assert.ok(!said.includes("tg_secret"));
});
