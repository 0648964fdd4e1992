// Makes docs/images/reference.png of a running suite: GUILDHALL_URL=http://127.0.0.1:8080 CHROMIUM=/usr/bin/chromium.

import { GUILDHALL_URL, launch, visit } from "./browser.js";

const browser = await launch();
const { page } = await visit(browser, `${GUILDHALL_URL}/docs#MessageService_SendMessage`, {
  viewport: { width: 1280, height: 860 }, colorScheme: "light",
});
await page.locator("#MessageService_SendMessage .command").waitFor();
await page.screenshot({ path: process.argv[2] ?? new URL("../../docs/images/reference.png", import.meta.url).pathname });
await browser.close();
