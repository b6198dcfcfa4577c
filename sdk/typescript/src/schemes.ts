// The schemes themselves. Codes are compared by WebCrypto, in constant time.
import { webCrypto } from "./crypto.js";
import { VerifyError } from "./verify.js";

/**
 * - `standard`: Standard Webhooks, `v1` by `whsec_…` and `v1a` by `whpk_…`
 * - `stamped`: `t=<unix>,v1=<hex>`, HMAC-SHA256 over `<unix>.<body>`
 * - `prefixed`: `sha256=<hex>`, HMAC-SHA256 over the body
 * - `sha1`: `<hex>`, HMAC-SHA1 over the body
 */
export type Scheme = "standard" | "stamped" | "prefixed" | "sha1";

/** The headers in which profiles have them. */
export const SCHEMES = {
  standard: ["webhook-signature", "svix-signature"],
  stamped: ["x-ingestlayer-signature"],
  prefixed: ["x-admin-signature"],
  sha1: ["x-signature"],
} as const satisfies Record<Scheme, readonly string[]>;

type Bytes = Uint8Array<ArrayBuffer>;

/** A delivery, and how it is to be judged. */
export interface Signed {
  body: Bytes;
  text: string;
  header: (name: string) => string | undefined;
  /** The header with the signature. */
  name: string;
  /** Seconds. */
  tolerance: number;
  /** Seconds since 1970. */
  now: number;
  over: "body" | "first-element";
}

/** More signatures than any rotation needs. Those behind are not looked at. */
const MOST = 32;

/** When it was signed, in seconds, or `null` where the scheme does not say. Throws unless it is believed. */
export async function believes(scheme: Scheme, signed: Signed, secrets: readonly string[]): Promise<number | null> {
  switch (scheme) {
    case "standard":
      return standard(signed, secrets);
    case "stamped":
      return stamped(signed, secrets);
    case "prefixed":
      return prefixed(signed, secrets);
    case "sha1":
      return sha1(signed, secrets);
  }
}

async function standard(signed: Signed, secrets: readonly string[]): Promise<number> {
  const family = signed.name.startsWith("svix-") ? "svix" : "webhook";
  const id = required(signed, `${family}-id`);
  const timestamp = required(signed, `${family}-timestamp`);
  const entries = required(signed, signed.name).split(" ").slice(0, MOST);
  const seconds = fresh(signed, timestamp);
  const message = join(`${id}.${timestamp}.`, signed.body);
  for (const secret of secrets) {
    const isPublic = secret.startsWith("whpk_");
    const key = await (isPublic ? ed25519(secret) : hmac("SHA-256", fromBase64(secret.replace(/^whsec_/, ""))));
    const mark = isPublic ? "v1a," : "v1,";
    for (const entry of entries) {
      if (!entry.startsWith(mark)) continue;
      const signature = tryBase64(entry.slice(mark.length));
      if (signature && (await webCrypto().subtle.verify(key.algorithm.name, key, signature, message))) return seconds;
    }
  }
  throw mismatch();
}

async function stamped(signed: Signed, secrets: readonly string[]): Promise<number> {
  const fields = required(signed, signed.name)
    .split(",")
    .slice(0, MOST)
    .map((field) => field.trim().split("=", 2));
  const timestamp = fields.find(([name]) => name === "t")?.[1];
  if (timestamp === undefined) throw new VerifyError("malformed", `the header \`${signed.name}\` has no \`t=\``);
  const seconds = fresh(signed, timestamp);
  const codes = fields.filter(([name]) => name === "v1").map(([, hex]) => hex ?? "");
  if (await isOfOne("SHA-256", secrets, codes, join(`${timestamp}.`, signed.body))) return seconds;
  throw mismatch();
}

async function prefixed(signed: Signed, secrets: readonly string[]): Promise<null> {
  const value = required(signed, signed.name);
  if (!value.startsWith("sha256=")) {
    throw new VerifyError("malformed", `the header \`${signed.name}\` does not begin with \`sha256=\``);
  }
  if (await isOfOne("SHA-256", secrets, [value.slice("sha256=".length)], signed.body)) return null;
  throw mismatch();
}

async function sha1(signed: Signed, secrets: readonly string[]): Promise<null> {
  const codes = [required(signed, signed.name)];
  const first = firstElement(signed.text);
  if (signed.over === "first-element") {
    if (await isOfOne("SHA-1", secrets, codes, first ?? signed.body)) return null;
    throw mismatch();
  }
  if (await isOfOne("SHA-1", secrets, codes, signed.body)) return null;
  if (first && (await isOfOne("SHA-1", secrets, codes, first))) {
    const what = "only the first element of this batch is signed: pass `over: \"first-element\"` if that is enough for you";
    throw new VerifyError("mismatch", what);
  }
  throw mismatch();
}

/** The first element of a list, as `JSON.stringify` writes it, which is how it was sent and signed. */
function firstElement(text: string): Bytes | undefined {
  try {
    const list: unknown = JSON.parse(text);
    return Array.isArray(list) && list.length > 0 ? new TextEncoder().encode(JSON.stringify(list[0])) : undefined;
  } catch {
    return undefined;
  }
}

async function isOfOne(
  hash: "SHA-256" | "SHA-1",
  secrets: readonly string[],
  codes: readonly string[],
  message: Bytes,
): Promise<boolean> {
  for (const secret of secrets) {
    const key = await hmac(hash, new TextEncoder().encode(secret));
    for (const code of codes) {
      const signature = tryHex(code);
      if (signature && (await webCrypto().subtle.verify("HMAC", key, signature, message))) return true;
    }
  }
  return false;
}

function hmac(hash: string, secret: Bytes): Promise<CryptoKey> {
  return webCrypto().subtle.importKey("raw", secret, { name: "HMAC", hash }, false, ["verify"]);
}

function ed25519(secret: string): Promise<CryptoKey> {
  const key = fromBase64(secret.slice("whpk_".length));
  return webCrypto().subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
}

/** Unix seconds in plain digits, near enough to now. */
function fresh(signed: Signed, text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new VerifyError("malformed", "the timestamp is not in unix seconds");
  const seconds = Number(text);
  const age = signed.now - seconds;
  if (age > signed.tolerance) throw new VerifyError("too-old", `the timestamp is ${age} s old`);
  if (-age > signed.tolerance) throw new VerifyError("too-new", `the timestamp is ${-age} s in the future`);
  return seconds;
}

function required(signed: Signed, name: string): string {
  const value = signed.header(name);
  if (value === undefined) throw new VerifyError("missing-header", `the header \`${name}\` is missing`);
  return value;
}

function mismatch(): VerifyError {
  return new VerifyError("mismatch", "no signature is of one of the secrets, over these bytes");
}

function join(start: string, body: Bytes): Bytes {
  const head = new TextEncoder().encode(start);
  const whole = new Uint8Array(head.length + body.length);
  whole.set(head);
  whole.set(body, head.length);
  return whole;
}

/** A secret that does not decode is our own mistake, and no sender's. */
function fromBase64(text: string): Bytes {
  if (text.startsWith("whsk_")) {
    throw new TypeError("a receiver is given the public key, `whpk_…`, and never `whsk_…`");
  }
  const bytes = tryBase64(text);
  if (!bytes || bytes.length === 0) throw new TypeError("a signing secret is base64, after `whsec_` or `whpk_`");
  return bytes;
}

function tryBase64(text: string): Bytes | undefined {
  try {
    return Uint8Array.from(atob(text.trim()), (it) => it.charCodeAt(0));
  } catch {
    return undefined;
  }
}

function tryHex(text: string): Bytes | undefined {
  if (!/^([0-9a-fA-F]{2})+$/.test(text)) return undefined;
  return Uint8Array.from(text.match(/../g)!, (it) => Number.parseInt(it, 16));
}
