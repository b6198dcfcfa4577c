import assert from "node:assert/strict";
import { createHmac, generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { test } from "node:test";

import { verify, VerifyError } from "@tidegate/sdk";

const NOW = 1_774_000_000;
const options = { now: () => NOW * 1000 };
const body = '{"type":"user.signed_up","data":{"plan":"pro","name":"Ada é 😀"}}';
const hmac = (hash, secret, text, form = "hex") => createHmac(hash, secret).update(text).digest(form);

const whsec = `whsec_${randomBytes(32).toString("base64")}`;
const keyOf = (secret) => Buffer.from(secret.slice(6), "base64");
const pair = generateKeyPairSync("ed25519");
const whpk = `whpk_${Buffer.from(pair.publicKey.export({ format: "jwk" }).x, "base64url").toString("base64")}`;

const headersOf = {
  standard: (secret, text, at) => ({
    "webhook-id": "evt_1",
    "webhook-timestamp": String(at),
    "webhook-signature": `v1,${hmac("sha256", keyOf(secret), `evt_1.${at}.${text}`, "base64")}`,
  }),
  ed25519: (_, text, at) => ({
    "webhook-id": "evt_1",
    "webhook-timestamp": String(at),
    "webhook-signature": `v1a,${sign(null, Buffer.from(`evt_1.${at}.${text}`), pair.privateKey).toString("base64")}`,
  }),
  stamped: (secret, text, at) => ({
    "x-ingestlayer-signature": `t=${at},v1=${hmac("sha256", secret, `${at}.${text}`)}`,
  }),
  prefixed: (secret, text) => ({
    "x-admin-signature": `sha256=${hmac("sha256", secret, text)}`,
    "idempotency-key": "k-1",
  }),
  sha1: (secret, text) => ({ "x-signature": hmac("sha1", secret, text) }),
};
const secrets = { standard: whsec, ed25519: whpk, stamped: "s3cret", prefixed: "s3cret", sha1: "s3cret" };

for (const [kind, make] of Object.entries(headersOf)) {
  const secret = secrets[kind];
  const scheme = kind === "ed25519" ? "standard" : kind;

  test(`${kind}: what was signed is believed, in every form that frameworks have`, async () => {
    const headers = make(secret, body, NOW);
    const upper = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toUpperCase(), [value]]));
    for (const raw of [body, Buffer.from(body), new TextEncoder().encode(body).buffer]) {
      for (const form of [headers, new Headers(headers), Object.entries(headers), upper, new Map(Object.entries(headers))]) {
        const delivery = await verify(raw, form, secret, options);
        assert.equal(delivery.scheme, scheme);
        assert.deepEqual(delivery.json, JSON.parse(body));
        assert.equal(delivery.text, body);
      }
    }
    await verify(body, headers, secret, { ...options, scheme });
  });

  test(`${kind}: what was altered, or signed by another, is refused`, async () => {
    const headers = make(secret, body, NOW);
    const other = { standard: `whsec_${randomBytes(32).toString("base64")}`, ed25519: whpk.replace(/.{6}=$/, "AAAAA=") }[kind] ?? "another";
    const refused = (...words) => assert.rejects(verify(...words), (it) => it instanceof VerifyError && it.statusCode === 401);
    await refused(body.replace("pro", "prp"), headers, secret, options);
    await refused(`${body} `, headers, secret, options);
    await refused("", headers, secret, options);
    if (kind !== "ed25519") await refused(body, headers, other, options);
    for (const [name, value] of Object.entries(headers)) {
      if (!name.includes("signature")) continue;
      const last = value.length - 10;
      const swapped = value[last] === "A" || value[last] === "a" ? "b" : "a";
      await refused(body, { ...headers, [name]: value.slice(0, last) + swapped + value.slice(last + 1) }, secret, options);
      await refused(body, { ...headers, [name]: value.slice(0, -4) }, secret, options);
      await refused(body, { ...headers, [name]: "" }, secret, options);
    }
    await refused(body, {}, secret, options);
  });

  test(`${kind}: each of several secrets counts`, async () => {
    const spare = scheme === "standard" ? `whsec_${randomBytes(24).toString("base64")}` : "spare";
    await verify(body, make(secret, body, NOW), [spare, secret], options);
    await assert.rejects(verify(body, make(secret, body, NOW), [spare], options), { code: "mismatch" });
  });
}

for (const kind of ["standard", "ed25519", "stamped"]) {
  test(`${kind}: a timestamp counts within the tolerance, to either side`, async () => {
    for (const [age, code] of [[300, undefined], [301, "too-old"], [-300, undefined], [-301, "too-new"]]) {
      const verified = verify(body, headersOf[kind](secrets[kind], body, NOW - age), secrets[kind], options);
      await (code ? assert.rejects(verified, { code }) : verified);
    }
    const old = headersOf[kind](secrets[kind], body, NOW - 1000);
    const { timestamp } = await verify(body, old, secrets[kind], { ...options, tolerance: 1000 });
    assert.equal(timestamp.getTime(), (NOW - 1000) * 1000);
    const moved = { ...old };
    for (const name of Object.keys(moved)) moved[name] = moved[name].replaceAll(String(NOW - 1000), String(NOW));
    await assert.rejects(verify(body, moved, secrets[kind], options), { code: "mismatch" });
  });
}

test("while one secret replaces another, both signatures stand in the header", async () => {
  const next = `whsec_${randomBytes(32).toString("base64")}`;
  const [a, b] = [whsec, next].map((it) => headersOf.standard(it, body, NOW));
  const both = { ...a, "webhook-signature": `${a["webhook-signature"]} ${b["webhook-signature"]}` };
  await verify(body, both, whsec, options);
  await verify(body, both, next, options);
  const [c, d] = ["one", "two"].map((it) => hmac("sha256", it, `${NOW}.${body}`));
  for (const secret of ["one", "two"]) {
    await verify(body, { "x-ingestlayer-signature": `t=${NOW},v1=${c},v1=${d}` }, secret, options);
  }
});

test("of a batch, the first element counts only for who asks for it", async () => {
  const batch = '[{"n":1},{"n":2}]';
  const first = { "x-signature": hmac("sha1", "s", '{"n":1}') };
  await verify(batch, first, "s", { over: "first-element" });
  await verify('{"n":1}', first, "s", { over: "first-element" });
  await assert.rejects(verify(batch, first, "s"), { code: "mismatch", message: /over: "first-element"/ });
  await assert.rejects(verify('[{"n":2},{"n":1}]', first, "s", { over: "first-element" }), { code: "mismatch" });
  await verify(batch, { "x-signature": hmac("sha1", "s", batch) }, "s");
});

test("a destination may sign in another header, and with another scheme", async () => {
  const named = { "x-acme": hmac("sha1", "s", body) };
  await verify(body, named, "s", { header: "X-Acme" });
  await verify(body, { "x-signature": `t=${NOW},v1=${hmac("sha256", "s", `${NOW}.${body}`)}` }, "s", options);
  await verify(body, { "x-signature": `sha256=${hmac("sha256", "s", body)}` }, "s", { scheme: "prefixed" });
  await assert.rejects(verify(body, named, "s", { scheme: "stamped" }), { code: "missing-header" });
  await assert.rejects(verify(body, named, "s", { scheme: "stamped", header: "x-acme" }), { code: "malformed" });
});

test("our own mistakes are no sender's", async () => {
  const headers = headersOf.standard(whsec, body, NOW);
  await assert.rejects(verify(body, headers, undefined, options), /no signing secret/);
  await assert.rejects(verify(body, headers, "", options), TypeError);
  await assert.rejects(verify(JSON.parse(body), headers, whsec, options), /raw body/);
  await assert.rejects(verify(body, headers, "whsec_%%%", options), /base64/);
  await assert.rejects(verify(body, headers, "whsk_AAAA", options), /public key/);
});
