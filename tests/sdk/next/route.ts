// app/hooks/route.ts, as an app of Next.js has it.
import { webhook } from "@tidegate/sdk/next";
import { NextResponse, type NextRequest } from "next/server";

const secret = process.env["SECRET"];

export const POST = webhook(secret, (delivery, request: NextRequest) => {
  const json = delivery.json as { type: string };
  return NextResponse.json({ id: delivery.id, type: json.type, path: request.nextUrl.pathname }, { status: 202 });
});

// Without an answer of one's own, and without a look at the request.
export const PUT = webhook(secret, async (delivery) => {
  delivery.scheme satisfies string;
});

// What Next.js asks of a route's handlers when it checks an app (.next/types/validator.ts).
type Handler = (request: NextRequest, context: { params: Promise<object> }) => Promise<Response | void> | Response | void;
({ POST, PUT }) satisfies Record<string, Handler>;

// @ts-expect-error: a handler gives a Response or nothing
webhook(secret, () => 7);
// @ts-expect-error: a delivery has no such field
webhook(secret, (delivery) => console.log(delivery.payload));
