// Runs route.ts in the route module with which Next.js itself serves it in production, and prints what was answered.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
require("next/dist/server/node-environment.js");
const { AppRouteRouteModule } = require("next/dist/compiled/next-server/app-route.runtime.prod.js");
const { NextRequest } = await import("next/server.js");
const handlers = await import("./out/route.js");

const route = new AppRouteRouteModule({
  userland: () => handlers,
  definition: { kind: "APP_ROUTE", page: "/hooks/route", pathname: "/hooks", filename: "route", bundlePath: "app/hooks/route" },
  distDir: ".next",
  relativeProjectDir: "",
  resolvedPagePath: "route.ts",
  nextConfigOutput: "",
});
const context = () => ({
  params: {},
  prerenderManifest: { preview: {}, routes: {}, dynamicRoutes: {} },
  renderOpts: { experimental: {}, cacheComponents: false, supportsDynamicResponse: true, onClose() {}, onAfterTaskError() {}, cacheLifeProfiles: {} },
  sharedContext: { buildId: "b", deploymentId: "" },
});
const { headers, body } = JSON.parse(process.env.DELIVERY);
const answer = async (method, headers, body) => {
  const response = await route.handle(new NextRequest("http://app.example/hooks?a=1", { method, headers, body }), context());
  console.log(method, response.status, await response.text());
};
await answer("POST", headers, body);
await answer("PUT", headers, body);
await answer("POST", headers, body.replace("user", "usr"));
await answer("POST", {}, body);
