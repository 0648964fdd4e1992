// The reference page in a browser: complete, usable by keyboard, dark and light, and shut to code from elsewhere.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, before, test } from "node:test";
import { GUILDHALL_TOKEN, GUILDHALL_URL, launch, serve, visit } from "./browser.js";

let browser;

before(async () => { browser = await launch(); });
after(async () => { await browser?.close(); });

async function reference(hash = "", options = {}) {
  const { page, said } = await visit(browser, `${GUILDHALL_URL}/docs${hash}`, options);
  await page.waitForSelector("html[data-ready]");
  return { page, said };
}

const shown = (page) => page.locator(".call:visible").count();

test("every call of the document is on the page, opens, and breaks nothing", async () => {
  const { page, said } = await reference();
  const described = await (await fetch(`${GUILDHALL_URL}/openapi.json`)).json();
  const operations = Object.values(described.paths).flatMap((item) => Object.values(item));
  const streams = described.tags.flatMap((tag) => tag["x-streams"] ?? []);
  assert.ok(operations.length > 150);
  assert.equal(await shown(page), operations.length + streams.length);
  for (const operation of operations) assert.equal(await page.locator(`[id="${operation.operationId}"]`).count(), 1);

  // All of them, and what is inside of them two levels deep: a schema that the page cannot show throws here.
  for (let depth = 0; depth < 3; depth += 1) {
    await page.evaluate(async () => {
      for (const details of document.querySelectorAll("details:not([open])")) details.open = true;
      await new Promise((resolve) => { setTimeout(resolve); });
    });
  }
  await page.waitForFunction((count) => document.querySelectorAll(".call .inside").length === count,
    operations.length + streams.length);
  assert.ok((await page.locator(".call tr").count()) > 1000);
  assert.equal(await page.getByText(/^undefined$|\[object Object\]/).count(), 0);
  assert.deepEqual(said, []);
});

test("it is used by keyboard alone", async () => {
  const { page } = await reference();
  await page.keyboard.press("/");
  await page.keyboard.type("post sendmessage");
  assert.equal(await shown(page), 1);
  assert.match(await page.locator("#count").textContent(), /^1 of \d+ calls$/);
  const call = page.locator("#MessageService_SendMessage");
  for (let presses = 0; !(await call.locator("> summary").evaluate((one) => one === document.activeElement)); presses += 1) {
    assert.ok(presses < 60, "Tab reaches the call");
    await page.keyboard.press("Tab");
  }
  await page.keyboard.press("Enter");
  await call.locator("td", { hasText: /^clientMessageId/ }).waitFor();
  await page.locator("#filter").focus();
  await page.keyboard.press("Escape");
  assert.ok((await shown(page)) > 150);
});

test("an address names a call, even one that the filter hides", async () => {
  const { page } = await reference("#WorkspaceService_CreateWorkspace");
  const call = page.locator("#WorkspaceService_CreateWorkspace");
  assert.equal(await call.getAttribute("open"), "");
  await page.locator("#filter").fill("xyzzy");
  assert.equal(await shown(page), 0);
  await page.evaluate(() => { location.hash = "#UserService_GetUser"; });
  await page.locator("#UserService_GetUser[open]").waitFor();
});

test("the command lines that it shows work as they are copied", async () => {
  const context = await browser.newContext({ permissions: ["clipboard-read", "clipboard-write"] });
  const page = await context.newPage();
  const copied = async (id) => {
    await page.goto(`${GUILDHALL_URL}/docs#${id}`);
    await page.reload();
    await page.locator(`#${id} .command button`).click();
    await page.locator(`#${id} .command button`, { hasText: "Copied" }).waitFor();
    return page.evaluate(() => navigator.clipboard.readText());
  };
  const run = (command, variables = {}) => {
    const environment = { ...process.env, ...variables, TOKEN: GUILDHALL_TOKEN, no_proxy: "*" };
    return JSON.parse(execFileSync("bash", ["-c", command], { env: environment }));
  };
  const made = run(await copied("WorkspaceService_CreateWorkspace"));
  const { workspaceId } = made.workspace;
  const got = run(await copied("WorkspaceService_GetWorkspace"), { WORKSPACE_ID: workspaceId });
  assert.equal(got.workspace.workspaceId, workspaceId);
  const channel = run(await copied("ConversationService_CreateChannel"), { WORKSPACE_ID: workspaceId });
  const sent = run(await copied("MessageService_SendMessage"), {
    WORKSPACE_ID: workspaceId, CONVERSATION_ID: channel.conversation.conversationId,
  });
  assert.equal(sent.message.seq, "1");
  await context.close();
});

test("it is dark or light as the reader's system is, or as they say", async () => {
  const ground = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await reference("", { colorScheme: "light" });
  const dark = await reference("", { colorScheme: "dark" });
  const [bright, dim] = [await ground(light.page), await ground(dark.page)];
  assert.notEqual(bright, dim);
  await light.page.getByRole("button", { name: "Dark" }).click();
  assert.equal(await ground(light.page), dim);
  await light.page.reload();
  assert.equal(await ground(light.page), dim);
});

test("the policy stops code inside of the page, and calls to elsewhere", async () => {
  const elsewhere = await serve();
  const { page } = await reference();
  const told = await page.evaluate(async (other) => {
    const stopped = [];
    document.addEventListener("securitypolicyviolation", (event) => stopped.push(event.effectiveDirective));
    const script = document.createElement("script");
    script.textContent = "globalThis.ran = true";
    document.body.append(script);
    document.body.setAttribute("onclick", "globalThis.ran = true");
    document.body.click();
    const image = new Image();
    image.src = `${other}/image.png`;
    const called = await fetch(other, { mode: "no-cors" }).then(() => "called", () => "stopped");
    await new Promise((resolve) => { setTimeout(resolve); });
    return { ran: Boolean(globalThis.ran), called, stopped: [...new Set(stopped)].sort() };
  }, `http://localhost:${elsewhere.port}`);
  await elsewhere.close();
  assert.equal(told.ran, false);
  assert.equal(told.called, "stopped");
  assert.deepEqual(told.stopped, ["connect-src", "img-src", "script-src-attr", "script-src-elem"]);
});
