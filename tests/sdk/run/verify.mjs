// Reads one delivery per line ({secret, headers, body in base64, options, later}), and prints for each
// `ok <scheme>` or `refused <code>`. `later` is how many seconds after its arrival it is looked at.
import { createInterface } from "node:readline";
import { verify, VerifyError } from "@tidegate/sdk";

for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body, options, later } = JSON.parse(line);
  const now = () => Date.now() + later * 1000;
  try {
    const { scheme } = await verify(Buffer.from(body, "base64"), headers, secret, { ...options, now });
    console.log("ok", scheme);
  } catch (error) {
    if (!(error instanceof VerifyError)) throw error;
    console.log("refused", error.code);
  }
}
