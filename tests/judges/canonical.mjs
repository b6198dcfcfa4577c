// Reads JSON texts, one per line in base64, and prints for each, in base64 again, what node writes
// after reading it.
import { createInterface } from "node:readline";

for await (const line of createInterface({ input: process.stdin })) {
  const text = Buffer.from(line, "base64").toString("utf8");
  console.log(Buffer.from(JSON.stringify(JSON.parse(text)), "utf8").toString("base64"));
}
