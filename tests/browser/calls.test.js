// A page of a product calls the gateway from its own origin; a page of an origin that nobody allowed cannot.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { GUILDHALL_EMAIL, GUILDHALL_PASSWORD, GUILDHALL_URL, launch, serve, visit } from "./browser.js";

let browser;
let site;

before(async () => {
  [browser, site] = await Promise.all([launch(), serve()]);
});

after(async () => {
  await browser?.close();
  await site?.close();
});

async function product(host) {
  const { page, said } = await visit(browser, `http://${host}:${site.port}/`);
  await page.waitForFunction(() => globalThis.guildhall);
  assert.notEqual(new URL(page.url()).origin, new URL(GUILDHALL_URL).origin);
  return { page, said };
}

test("a page of an allowed origin signs in, sends by JSON and gRPC-Web, and hears both on its stream", async () => {
  const { page, said } = await product("localhost");
  const told = await page.evaluate(
    ([base, email, password]) => globalThis.guildhall.story(base, email, password),
    [GUILDHALL_URL, GUILDHALL_EMAIL, GUILDHALL_PASSWORD],
  );
  assert.equal(told.opened, "opened");
  assert.deepEqual(told.heard.map((message) => message.text), ["By JSON", "By gRPC-Web"]);
  assert.deepEqual(told.heard.map((message) => message.id), told.sent);
  assert.deepEqual(told.listed, ["By gRPC-Web", "By JSON"]);
  assert.match(told.left, /abort/i);
  assert.ok(told.requestId, "the page may read x-request-id");
  assert.deepEqual(said, []);
});

test("a refusal reaches the page with its reason, by gRPC-Web and by JSON", async () => {
  const { page } = await product("localhost");
  const told = await page.evaluate((base) => globalThis.guildhall.refusals(base), GUILDHALL_URL);
  assert.equal(told.code, 3);
  assert.ok(told.details.some((detail) => /google.rpc.ErrorInfo .*INVALID_REQUEST/s.test(detail)), told.details.join());
  assert.equal(told.status, 400);
  assert.ok(told.reasons.includes("INVALID_REQUEST"));
});

test("the browser refuses a page of another origin, and lets an allowed one", async () => {
  const allowed = await product("localhost");
  const foreign = await product("127.0.0.1");
  const outcomes = (page) => page.evaluate((base) => globalThis.guildhall.attempts(base), GUILDHALL_URL);
  assert.deepEqual(await outcomes(allowed.page), { simple: "answered", json: "answered", grpcWeb: "answered" });
  for (const [kind, outcome] of Object.entries(await outcomes(foreign.page)))
    assert.match(outcome, /Failed to fetch/, `${kind}: ${outcome}`);
  const blocked = foreign.said.filter((line) => line.includes("blocked by CORS policy"));
  assert.equal(blocked.length, 3, foreign.said.join("\n"));
});
