// The raw body of a request on Node's own server, whatever read it before us.
import type { HeadersLike } from "./verify.js";

/** What Express, Connect and Next's pages have in common. */
export interface NodeRequest extends AsyncIterable<unknown> {
  headers: Readonly<Record<string, string | string[] | undefined>>;
  readableEnded?: boolean;
  body?: unknown;
  rawBody?: unknown;
}

/** No batch of Tidegate's is larger. */
export const BODY_BYTES = 16 * 1024 * 1024;

export class BodyTooLarge extends Error {
  readonly statusCode = 413;
  readonly status = 413;
}

/** Reads what comes, up to a limit. */
export async function collect(stream: AsyncIterable<unknown>, limit: number = BODY_BYTES): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of stream) {
    const bytes = typeof chunk === "string" ? new TextEncoder().encode(chunk) : (chunk as Uint8Array);
    length += bytes.length;
    if (length > limit) throw new BodyTooLarge(`the body has more than ${limit} bytes`);
    chunks.push(bytes);
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

export async function rawBody(request: NodeRequest): Promise<string | Uint8Array> {
  for (const body of [request.rawBody, request.body]) {
    if (typeof body === "string" || body instanceof Uint8Array) return body;
  }
  if (request.readableEnded) {
    throw new TypeError(
      "a parser has read the body before its signature was verified: mount this in front of `express.json()`, " +
        "or use `express.raw({ type: \"*/*\" })` for this path",
    );
  }
  return collect(request);
}

export type { HeadersLike };
