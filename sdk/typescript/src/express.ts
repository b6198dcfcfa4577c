// Express, and whatever takes middleware of this form.
import "./webcrypto.js";
import { BodyTooLarge, rawBody, type NodeRequest } from "./node-body.js";
import { secretsOf, verify, VerifyError, type Delivery, type VerifyOptions } from "./verify.js";

export { VerifyError } from "./verify.js";
export type { Delivery, VerifyOptions } from "./verify.js";

export interface NodeResponse {
  statusCode: number;
  setHeader(name: string, value: string): unknown;
  end(text: string): unknown;
}

/** What the next handler finds on the request. */
export interface WithDelivery {
  delivery: Delivery;
}

/**
 * Middleware that lets only deliveries of Tidegate pass. The next handler finds `request.delivery`, and the parsed
 * body as `request.body`; anything else is answered 401. Mount it in front of body parsers.
 */
export function webhook(secret: string | readonly string[] | undefined, options?: VerifyOptions) {
  const secrets = secretsOf(secret);
  return (request: NodeRequest, response: NodeResponse, next: (error?: unknown) => void): void => {
    void (async () => {
      try {
        const delivery = await verify(await rawBody(request), request.headers, secrets, options);
        Object.assign(request, { delivery, body: delivery.json });
      } catch (error) {
        if (!(error instanceof VerifyError || error instanceof BodyTooLarge)) return next(error);
        response.statusCode = error.statusCode;
        response.setHeader("content-type", "application/json");
        response.end(JSON.stringify({ error: error.message }));
        return;
      }
      next();
    })();
  };
}

/** The delivery that `webhook` has put there. */
export function deliveryOf(request: object): Delivery {
  const { delivery } = request as Partial<WithDelivery>;
  if (!delivery) throw new TypeError("`webhook(…)` is not in front of this handler");
  return delivery;
}
