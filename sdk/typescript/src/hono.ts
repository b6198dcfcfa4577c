// Hono, on any runtime.
import { refusal, secretsOf, verify, VerifyError, type Delivery, type VerifyOptions } from "./verify.js";

export { VerifyError } from "./verify.js";
export type { Delivery, VerifyOptions } from "./verify.js";

interface ContextLike {
  req: { arrayBuffer(): Promise<ArrayBuffer>; raw: Request };
  set(key: "delivery", value: Delivery): void;
}

/** What a handler's context has: `new Hono<WithDelivery>()`. */
export interface WithDelivery {
  Variables: { delivery: Delivery };
}

/**
 * Middleware that lets only deliveries of Tidegate pass: `app.post("/hooks", webhook(secret), handler)`. The handler
 * finds `c.get("delivery")`; anything else is answered 401.
 */
export function webhook(secret: string | readonly string[] | undefined, options?: VerifyOptions) {
  const secrets = secretsOf(secret);
  return async (context: ContextLike, next: () => Promise<void>): Promise<Response | void> => {
    let delivery: Delivery;
    try {
      delivery = await verify(await context.req.arrayBuffer(), context.req.raw.headers, secrets, options);
    } catch (error) {
      if (!(error instanceof VerifyError)) throw error;
      return refusal(error);
    }
    context.set("delivery", delivery);
    await next();
  };
}
