// Whether a delivery is from Tidegate: every scheme that its profiles sign with.
import { believes, SCHEMES, type Scheme, type Signed } from "./schemes.js";

export type { Scheme } from "./schemes.js";

/**
 * - `missing-header`: there is no signature, or something that belongs to it is missing.
 * - `malformed`: the header does not have the form of its scheme.
 * - `too-old`, `too-new`: the timestamp is further from our clock than the tolerance.
 * - `mismatch`: well formed, and of none of the secrets.
 */
export type VerifyCode = "missing-header" | "malformed" | "too-old" | "too-new" | "mismatch";

/** A delivery that is not believed. Answer 401, and do nothing else with it. */
export class VerifyError extends Error {
  override readonly name = "VerifyError";
  /** What frameworks answer when it is thrown. */
  readonly statusCode = 401;
  readonly status = 401;

  constructor(
    readonly code: VerifyCode,
    message: string,
  ) {
    super(message);
  }
}

export interface VerifyOptions {
  /** The scheme of the destination's profile. Without it, the headers say which. */
  scheme?: Scheme | undefined;
  /** The header with the signature, where the destination has another than its profile. */
  header?: string | undefined;
  /** Seconds that a timestamp may be from our clock, to either side. 300. */
  tolerance?: number | undefined;
  /**
   * For `sha1` and batches: what the signature is over. `first-element` is what the profiles `segment`,
   * `segment-actions` and `customerio` sign of a batch; mind that nothing then protects the other elements.
   */
  over?: "body" | "first-element" | undefined;
  /** Milliseconds since 1970. `Date.now`. */
  now?: (() => number) | undefined;
}

/** Headers as any framework has them. */
export type HeadersLike =
  | { get(name: string): string | null | undefined }
  | Iterable<readonly [string, string]>
  | Readonly<Record<string, string | readonly string[] | undefined>>;

/** A delivery that is believed. */
export interface Delivery {
  scheme: Scheme;
  /**
   * The same on every attempt: a receiver that remembers it does nothing twice. `null` where the
   * profile sends none.
   */
  id: string | null;
  /** When it was signed, where the scheme says that. */
  timestamp: Date | null;
  /** The body, as it came. */
  text: string;
  /** The body, parsed. */
  json: unknown;
}

/**
 * Believes a delivery, or throws a `VerifyError`.
 *
 * `rawBody` is the bytes that came, before anything parsed them. With several secrets, each of them counts, as
 * is needed while one replaces the other.
 */
export async function verify(
  rawBody: string | Uint8Array | ArrayBuffer,
  headers: HeadersLike,
  secret: string | readonly string[] | undefined,
  options: VerifyOptions = {},
): Promise<Delivery> {
  const secrets = secretsOf(secret);
  const body = bytesOf(rawBody);
  const header = (name: string) => headerOf(headers, name);
  const scheme = options.scheme ?? schemeOf(header, options.header);
  const text = new TextDecoder().decode(body);
  const signed: Signed = {
    body,
    text,
    header,
    name: options.header ?? nameOf(scheme, header),
    tolerance: options.tolerance ?? 300,
    now: Math.floor((options.now ?? Date.now)() / 1000),
    over: options.over ?? "body",
  };
  const seconds = await believes(scheme, signed, secrets);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new VerifyError("malformed", "the body is signed, but it is not JSON");
  }
  const id = header("webhook-id") ?? header("idempotency-key") ?? null;
  return { scheme, id, timestamp: seconds === null ? null : new Date(seconds * 1000), text, json };
}

/** The scheme by the header that is there. */
function schemeOf(header: (name: string) => string | undefined, named: string | undefined): Scheme {
  if (named !== undefined) {
    const value = header(named);
    if (value === undefined) throw new VerifyError("missing-header", `the header \`${named}\` is missing`);
    return schemeOfValue(value);
  }
  for (const [scheme, names] of Object.entries(SCHEMES) as [Scheme, readonly string[]][]) {
    // What is in `x-signature` may have any form: a destination can have another scheme than its profile.
    const found = names.find((name) => header(name) !== undefined);
    if (found !== undefined) return found === "x-signature" ? schemeOfValue(header(found)!) : scheme;
  }
  throw new VerifyError("missing-header", "no header has a signature of Tidegate");
}

function schemeOfValue(value: string): Scheme {
  if (/(^|,)\s*t=/.test(value)) return "stamped";
  if (value.startsWith("sha256=")) return "prefixed";
  if (/^v1a?,/.test(value)) return "standard";
  return "sha1";
}

function nameOf(scheme: Scheme, header: (name: string) => string | undefined): string {
  const names = scheme === "standard" ? SCHEMES.standard : [...SCHEMES[scheme], "x-signature"];
  return names.find((name) => header(name) !== undefined) ?? names[0]!;
}

/** The answer to a delivery that is not believed. */
export function refusal(error: VerifyError): Response {
  const headers = { "content-type": "application/json" };
  return new Response(JSON.stringify({ error: error.message }), { status: error.status, headers });
}

/** Throws when there is none: a receiver that starts without a secret would refuse everything. */
export function secretsOf(secret: string | readonly string[] | undefined): readonly string[] {
  const secrets = (typeof secret === "string" ? [secret] : (secret ?? [])).filter((it) => it !== "");
  if (secrets.length === 0) throw new TypeError("there is no signing secret: is the environment's variable set?");
  return secrets;
}

function bytesOf(body: unknown): Uint8Array<ArrayBuffer> {
  if (typeof body === "string") return new TextEncoder().encode(body);
  if (body instanceof ArrayBuffer) return new Uint8Array(body);
  if (ArrayBuffer.isView(body)) {
    return new Uint8Array(body.buffer.slice(body.byteOffset, body.byteOffset + body.byteLength) as ArrayBuffer);
  }
  throw new TypeError("verify() needs the raw body, as text or bytes, and not what a parser made of it");
}

function headerOf(headers: HeadersLike, name: string): string | undefined {
  if ("get" in headers && typeof headers.get === "function") return headers.get(name)?.trim() || undefined;
  const pairs = Symbol.iterator in headers ? (headers as Iterable<readonly [string, string]>) : Object.entries(headers);
  for (const [key, value] of pairs) {
    if (key.toLowerCase() !== name.toLowerCase()) continue;
    const text = typeof value === "string" ? value : value?.[0];
    if (text?.trim()) return text.trim();
  }
  return undefined;
}
