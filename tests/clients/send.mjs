// Makes the six calls of calls.json with one client: node send.mjs <client> <host> <write key>
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const [client, host, writeKey] = process.argv.slice(2);
const calls = JSON.parse(readFileSync(new URL("calls.json", import.meta.url)));
const retries = 6;

const clients = {
  async "segment-node"() {
    const { Analytics } = require("@segment/analytics-node");
    const analytics = new Analytics({ writeKey, host, flushAt: 6, maxRetries: retries });
    analytics.on("error", (error) => console.error(error));
    make(analytics);
    await analytics.closeAndFlush({ timeout: 60_000 });
  },
  async "segment-node-legacy"() {
    const Analytics = require("analytics-node");
    const analytics = new Analytics(writeKey, { host, flushAt: 100, retryCount: retries });
    make(analytics);
    await new Promise((resolve, reject) => analytics.flush((error) => (error ? reject(error) : resolve())));
  },
  async "customerio-node"() {
    const { Analytics } = require("@customerio/cdp-analytics-node");
    const analytics = new Analytics({ writeKey, host, maxEventsInBatch: 6, maxRetries: retries });
    make(analytics);
    await analytics.closeAndFlush({ timeout: 60_000 });
  },
  async "rudder-node"() {
    const RudderAnalytics = require("@rudderstack/rudder-sdk-node");
    const analytics = new RudderAnalytics(writeKey, { dataPlaneUrl: host, flushAt: 100, retryCount: retries });
    make(analytics);
    await new Promise((resolve, reject) => analytics.flush((error) => (error ? reject(error) : resolve())));
  },
  // The browser's: a page in Chromium, whose only setting is the `cdnURL`.
  async "segment-next"() {
    const { chromium } = require("playwright-core");
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
      // The page and the client's own files come from another origin than the gateway.
      const origin = "http://shop.localhost";
      const files = new URL("node_modules/@segment/analytics-next/dist/umd/", import.meta.url);
      await page.route(`${origin}/**`, (route) => {
        const name = new URL(route.request().url()).pathname.slice(1);
        if (name === "") {
          const html = readFileSync(new URL("page.html", import.meta.url), "utf8");
          return route.fulfill({ contentType: "text/html", body: html });
        }
        return route.fulfill({ contentType: "text/javascript", body: readFileSync(new URL(name, files)) });
      });
      const all = new Promise((resolve) => {
        let taken = 0;
        page.on("response", (response) => {
          if (response.request().method() === "POST" && response.status() === 200 && ++taken === 6) resolve();
        });
      });
      await page.goto(`${origin}/`);
      await page.evaluate(([calls, host, writeKey]) => window.send(calls, host, writeKey), [calls, host, writeKey]);
      // The client keeps what was not taken, and tries again: each call is a post of its own.
      await all;
    } finally {
      await browser.close();
    }
  },
};

function make(analytics) {
  for (const [name, call] of Object.entries(calls)) analytics[name](structuredClone(call));
}

await clients[client]();
console.log("done");
