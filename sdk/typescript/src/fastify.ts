// Fastify: a route's `preParsing` hook, so that the body is verified before it is parsed.
import { Readable } from "node:stream";

import "./webcrypto.js";
import { collect } from "./node-body.js";
import { secretsOf, verify, type Delivery, type VerifyOptions } from "./verify.js";

export { VerifyError } from "./verify.js";
export type { Delivery, VerifyOptions } from "./verify.js";

interface FastifyRequestLike {
  headers: Readonly<Record<string, string | string[] | undefined>>;
}

const deliveries = new WeakMap<object, Delivery>();

/**
 * Options of a route that takes only deliveries of Tidegate: `app.post("/hooks", webhook(secret), handler)`. The handler
 * finds the parsed body, as always, and `deliveryOf(request)`; anything else is answered 401.
 */
export function webhook(secret: string | readonly string[] | undefined, options?: VerifyOptions) {
  const secrets = secretsOf(secret);
  return {
    async preParsing(request: FastifyRequestLike, _reply: unknown, payload: AsyncIterable<unknown>) {
      const body = await collect(payload);
      deliveries.set(request, await verify(body, request.headers, secrets, options));
      // Fastify sets an encoding on it, which only streams of bytes understand.
      const read = Readable.from([Buffer.from(body)], { objectMode: false });
      return Object.assign(read, { receivedEncodedLength: body.length });
    },
  };
}

/** The delivery of a request on such a route. */
export function deliveryOf(request: object): Delivery {
  const delivery = deliveries.get(request);
  if (!delivery) throw new TypeError("the route does not have the options of `webhook(…)`");
  return delivery;
}
