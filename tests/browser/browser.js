// Chromium, and a server of the page that is of another origin than the gateway. Runs in Node.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { chromium } from "playwright-core";

export const { GUILDHALL_URL, GUILDHALL_EMAIL, GUILDHALL_PASSWORD, GUILDHALL_TOKEN } = process.env;

export function launch() {
  // As root, which continuous integration is, Chromium has no sandbox.
  return chromium.launch({ executablePath: process.env.CHROMIUM, chromiumSandbox: process.getuid() !== 0 });
}

// Serves an empty page with the client on one port, which "localhost" and "127.0.0.1" make two origins of.
export async function serve() {
  const script = readFileSync(new URL("dist/client.js", import.meta.url));
  const server = createServer((request, response) => {
    const isScript = request.url === "/client.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? script : '<!doctype html><title>A product</title><script type="module" src="client.js"></script>');
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { port: server.address().port, close: () => new Promise((resolve) => server.close(resolve)) };
}

// A page, with what it said on its console.
export async function visit(browser, url, options = {}) {
  const page = await browser.newPage(options);
  const said = [];
  page.on("console", (message) => said.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => said.push(`error: ${error.message}`));
  await page.goto(url);
  return { page, said };
}
