// The SDK in a page of Chromium, as its files are: node page.mjs <gateway> <key>
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [url, apiKey] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    // The page has no address of its own here, so that Chromium takes it for one from far away.
    "--disable-features=LocalNetworkAccessChecks"],
});
try {
  const page = await browser.newPage();
  page.on("console", (message) => console.error("page:", message.text()));
  page.on("pageerror", (error) => console.error("page:", error));
  const origin = "http://shop.localhost";
  const files = new URL("node_modules/@tidegate/sdk/dist/esm/", import.meta.resolve("../package.json"));
  await page.route(`${origin}/**`, (route) => {
    const name = new URL(route.request().url()).pathname.slice(1);
    if (!name.endsWith(".js")) return route.fulfill({ contentType: "text/html", body: "<!doctype html><title>A shop</title>" });
    return route.fulfill({ contentType: "text/javascript", body: readFileSync(new URL(name, files)) });
  });
  await page.goto(`${origin}/`);
  const said = await page.evaluate(
    async ([url, apiKey, { secret, headers, body }]) => {
      const { Tidegate, verify } = await import("/index.js");
      const delivery = await verify(body, headers, secret);
      const refused = await verify(`${body} `, headers, secret).catch((error) => error.code);
      const client = new Tidegate({ url, apiKey });
      const receipt = await client.ingest("runtime.ran", { runtime: "chromium", step: "waited" });
      const wrong = await client.ingest("not a type", {}).catch((error) => error.code);
      // Nobody waits for this one, and the page is left before it would be sent.
      const slow = new Tidegate({ url, apiKey, flushInterval: 3_600_000 });
      void slow.ingest("runtime.ran", { runtime: "chromium", step: "left" });
      return { scheme: delivery.scheme, refused, wrong, id: receipt.id };
    },
    [url, apiKey, JSON.parse(process.env.DELIVERY)],
  );
  console.log("verified", said.scheme, "refused", said.refused, "wrong", said.wrong, "kept", said.id);
  await page.goto("about:blank");
  // Rust waits until the last one has arrived; then it closes our input.
  console.log("left");
  for await (const _ of process.stdin);
} finally {
  await browser.close();
}
