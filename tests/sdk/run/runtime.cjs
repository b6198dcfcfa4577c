// The same as runtime.mjs, in CommonJS; and both forms of the package share what `configure` was told.
const { configure, ingest, verify } = require("@tidegate/sdk");

const runtime = process.argv[2];
configure({ flushInterval: 500 });
const { secret, headers, body } = JSON.parse(process.env.DELIVERY);

(async () => {
  const delivery = await verify(body, headers, secret);
  await verify(`${body} `, headers, secret).then(
    () => console.log("believed what was altered"),
    (error) => console.log("refused", error.code),
  );
  console.log("verified", delivery.scheme, delivery.json.type);
  const receipt = await ingest("runtime.ran", { runtime, step: "waited" });
  console.log("kept", receipt.id);
  const other = await import("@tidegate/sdk");
  const client = configure({ flushInterval: 3_600_000 });
  other.ingest("runtime.ran", { runtime, step: "left" });
  console.log("shared", client.pending);
})();
