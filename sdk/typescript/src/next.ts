// Route handlers of Next.js, and whatever else takes a Request and gives a Response: Bun, Deno, Workers.
import { refusal, secretsOf, verify, VerifyError, type Delivery, type VerifyOptions } from "./verify.js";

export { VerifyError } from "./verify.js";
export type { Delivery, VerifyOptions } from "./verify.js";

/**
 * A handler that gets only deliveries of Tidegate: `export const POST = webhook(secret, async (delivery) => { … })`.
 * It may give a response; without one, the answer is 204. Anything else is answered 401. The request is what
 * the handler says that it is: a `NextRequest` in Next.js.
 */
export function webhook<R extends Request = Request>(
  secret: string | readonly string[] | undefined,
  handler: (delivery: Delivery, request: R) => Promise<Response | void> | Response | void,
  options?: VerifyOptions,
) {
  const secrets = secretsOf(secret);
  return async (request: R): Promise<Response> => {
    let delivery: Delivery;
    try {
      delivery = await verify(await request.arrayBuffer(), request.headers, secrets, options);
    } catch (error) {
      if (!(error instanceof VerifyError)) throw error;
      return refusal(error);
    }
    return (await handler(delivery, request)) ?? new Response(null, { status: 204 });
  };
}
