import assert from "node:assert/strict";
import { test } from "node:test";

import { newEventId } from "../dist/esm/id.js";
import { Entry, Queue } from "../dist/esm/queue.js";
import { isPassing, retryAfter, waitBefore } from "../dist/esm/retry.js";
import "../dist/esm/webcrypto.js";

test("waits double, are drawn from their second half, and have an end", () => {
  for (const [failures, least, most] of [[1, 125, 250], [2, 250, 500], [5, 2000, 4000], [9, 15_000, 30_000], [999, 15_000, 30_000]]) {
    assert.deepEqual([waitBefore(failures, undefined, 0), waitBefore(failures, undefined, 1)], [least, most]);
  }
});

test("what the gateway asks for is the least, within reason", () => {
  assert.equal(waitBefore(1, 5000, 0), 5000);
  assert.ok(waitBefore(1, 5000, 1) > 5000);
  assert.equal(waitBefore(9, 1, 0), 15_000);
  assert.equal(waitBefore(1, 1e12, 0), 600_000);
});

test("Retry-After is seconds or a date", () => {
  const now = Date.parse("2026-11-21T10:00:00Z");
  for (const [header, expected] of [
    ["7", 7000],
    [" 0 ", 0],
    ["Sat, 21 Nov 2026 10:00:30 GMT", 30_000],
    ["Sat, 21 Nov 2026 09:00:00 GMT", 0],
    ["soon", undefined],
    ["", undefined],
    [null, undefined],
  ]) {
    assert.equal(retryAfter(header, now), expected, String(header));
  }
});

test("only what may pass is tried again", () => {
  const passing = [408, 425, 429, 500, 502, 503, 504, 507, 599];
  for (const status of passing) assert.ok(isPassing(status), String(status));
  for (const status of [301, 400, 401, 403, 404, 409, 413, 422, 501, 505, 508]) assert.ok(!isPassing(status), String(status));
});

test("ids are version 7, of their moment, and never the same", () => {
  const ids = new Set(Array.from({ length: 1000 }, () => newEventId()));
  assert.equal(ids.size, 1000);
  // The TypeID of 2^48 - 1 ms begins with the largest digits that 48 bits give.
  assert.match(newEventId(2 ** 48 - 1), /^evt_7zzzzzzzzz/);
  assert.match(newEventId(0), /^evt_0000000000/);
  const bits = (text) => [...text.slice(4)].reduce((sum, it) => sum * 32n + BigInt("0123456789abcdefghjkmnpqrstvwxyz".indexOf(it)), 0n);
  for (const id of ids) {
    assert.equal((bits(id) >> 76n) & 15n, 7n);
    assert.equal((bits(id) >> 62n) & 3n, 2n);
    assert.ok(Math.abs(Number(bits(id) >> 80n) - Date.now()) < 60_000);
  }
});

test("a batch holds the oldest that fit, and one at least", () => {
  const queue = new Queue(10, 1000);
  const entries = ["aaaa", "bb", "é€😀", "d"].map((json) => new Entry(json, json, 0));
  assert.deepEqual(entries.map((it) => it.bytes), [4, 2, 9, 1]);
  entries.forEach((it) => queue.add(it));
  const ids = (events, bytes) => queue.first(events, bytes).map((it) => it.id);
  assert.deepEqual(ids(10, 1000), ["aaaa", "bb", "é€😀", "d"]);
  assert.deepEqual(ids(2, 1000), ["aaaa", "bb"]);
  assert.deepEqual(ids(10, 8), ["aaaa", "bb"]);
  assert.deepEqual(ids(10, 1), ["aaaa"]);
  entries[0].keep({ status: "accepted", id: "aaaa" });
  queue.sweep();
  assert.deepEqual([queue.length, queue.bytes, ids(1, 1)[0]], [3, 12, "bb"]);
});
