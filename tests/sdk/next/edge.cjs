// The package in the runtime of edges, as Next.js has it: no Node around it but for what a page could have.
const { EdgeRuntime } = require("next/dist/compiled/edge-runtime");
const { readFileSync } = require("node:fs");
const path = require("node:path");

const runtime = new EdgeRuntime();
const modules = new Map();
// What a bundler would do: each file as a function of its own.
function load(file) {
  if (modules.has(file)) return modules.get(file).exports;
  const module = { exports: {} };
  modules.set(file, module);
  const run = runtime.evaluate(`(function (module, exports, require) {${readFileSync(file, "utf8")}\n})`);
  run(module, module.exports, (name) => {
    if (!name.startsWith("./")) throw new Error(`edges have no ${name}`);
    return load(path.join(path.dirname(file), name));
  });
  return module.exports;
}
const at = path.dirname(require.resolve("@tidegate/sdk/package.json"));
const { Tidegate, verify } = load(path.join(at, "dist/cjs/index.js"));
console.log("process is", runtime.evaluate("typeof process"), "here, and this is", runtime.evaluate("EdgeRuntime"));
const { secret, headers, body } = JSON.parse(process.env.DELIVERY);
(async () => {
  const delivery = await verify(body, headers, secret);
  const refused = await verify(`${body} `, headers, secret).catch((error) => error.code);
  console.log("refused", refused);
  console.log("verified", delivery.scheme, delivery.json.type);
  const client = new Tidegate({ url: process.env.TIDEGATE_URL, apiKey: process.env.TIDEGATE_API_KEY, project: process.env.TIDEGATE_PROJECT });
  const receipt = await client.ingest("runtime.ran", { runtime: "edge", step: "waited" });
  console.log("kept", receipt.id);
  client.ingest("runtime.ran", { runtime: "edge", step: "left" });
  await client.flush(); // what an edge hands to waitUntil
})();
