// One event that is waited for, one that is not, and a delivery that is verified.
import { configure, ingest, verify } from "@tidegate/sdk";

const runtime = process.argv[2];
configure({ flushInterval: 500 });
const { secret, headers, body } = JSON.parse(process.env.DELIVERY);
const delivery = await verify(body, headers, secret);
await verify(`${body} `, headers, secret).then(
  () => console.log("believed what was altered"),
  (error) => console.log("refused", error.code),
);
console.log("verified", delivery.scheme, delivery.json.type);
const receipt = await ingest("runtime.ran", { runtime, step: "waited" });
console.log("kept", receipt.id);
ingest("runtime.ran", { runtime, step: "left" });
