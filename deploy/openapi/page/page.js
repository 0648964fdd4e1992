// Shows openapi.json. Texts reach the page as text nodes only, never as markup.

const found = (id) => document.getElementById(id);
const calls = []; // {element, words, service}: what the filter looks through
let api;

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== undefined && child !== ""));
  return element;
}

// Texts: paragraphs, lists with "- ", `code` and **strong**.

function spans(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (part.startsWith("`") && part.length > 2) return make("code", {}, part.slice(1, -1));
    if (part.startsWith("**") && part.length > 4) return make("strong", {}, part.slice(2, -2));
    return part;
  });
}

function prose(text = "") {
  const blocks = [];
  for (const line of text.split("\n").filter(Boolean)) {
    if (!line.startsWith("- ")) {
      blocks.push(make("p", {}, ...spans(line)));
      continue;
    }
    if (blocks.at(-1)?.tagName !== "UL") blocks.push(make("ul"));
    blocks.at(-1).append(make("li", {}, ...spans(line.slice(2))));
  }
  return make("div", { class: "text" }, ...blocks);
}

// Schemas.

const nameIn = (reference) => reference.split("/").at(-1);
const resolve = (schema) => (schema.$ref ? { ...api.components.schemas[nameIn(schema.$ref)], ...schema } : schema);

function typeOf(schema) {
  if (schema.$ref) return nameIn(schema.$ref).split(".").at(-1);
  if (schema.type === "array") return `${typeOf(schema.items)}[]`;
  if (schema.contentEncoding) return schema.contentEncoding;
  return schema.format ?? schema.type ?? "any";
}

function limitsOf(schema) {
  const words = {
    minLength: "length ≥ ", maxLength: "length ≤ ", minItems: "items ≥ ", maxItems: "items ≤ ",
    minimum: "≥ ", maximum: "≤ ", exclusiveMinimum: "> ", exclusiveMaximum: "< ",
  };
  const limits = Object.keys(words).filter((key) => key in schema).map((key) => words[key] + schema[key]);
  if (schema.pattern && schema.format !== "int64") limits.push(`/${schema.pattern}/`);
  if (schema.uniqueItems) limits.push("no two alike");
  if (schema.not?.enum) limits.push(`not ${schema.not.enum.join(", ")}`);
  if (!schema.$ref && schema.enum) limits.push(schema.enum.map((value) => `"${value}"`).join(" | "));
  return limits.join(" · ");
}

// What a schema holds is built when it is opened: messages can hold themselves.
function lazily(title, build) {
  const details = make("details", { class: "nested" }, make("summary", {}, title));
  details.addEventListener("toggle", () => details.append(build()), { once: true });
  return details;
}

function inside(schema) {
  const whole = resolve(schema.type === "array" ? schema.items : schema);
  if (whole["x-enumDescriptions"]) {
    const rows = Object.entries(whole["x-enumDescriptions"]).map(([value, text]) =>
      make("tr", {}, make("td", {}, value), make("td"), make("td", {}, ...spans(text))));
    return lazily("values", () => make("table", {}, ...rows));
  }
  if (whole.properties) return lazily(`fields of ${typeOf(schema).replace("[]", "")}`, () => fieldsOf(whole));
  return "";
}

function row(name, schema, required, text) {
  const limits = limitsOf(schema) || (schema.items ? limitsOf(schema.items) : "");
  return make("tr", {},
    make("td", {}, name, required ? make("span", { class: "must", title: "required" }, "required") : ""),
    make("td", {}, typeOf(schema)),
    make("td", {}, ...spans(text ?? ""), limits ? make("div", { class: "limits" }, limits) : "", inside(schema)));
}

function fieldsOf(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, property]) =>
    row(name, property, schema.required?.includes(name), property.description ?? resolve(property).description));
  return rows.length ? make("table", {}, ...rows) : make("p", {}, "Nothing.");
}

// A call's command line. Ids in the path are shell variables, so that it works once they are set.

const variable = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();

function example(schema, name) {
  const whole = resolve(schema);
  if (whole.type === "array") return [example(whole.items, name)];
  if (whole.enum) return whole.enum.find((value) => !value.endsWith("_UNSPECIFIED") && !whole.not?.enum.includes(value));
  if (whole.properties) return sample(whole);
  if (whole.type === "boolean") return true;
  if (whole.type === "integer") return whole.minimum ?? 1;
  if (whole.format === "uuid") return crypto.randomUUID?.() ?? "00000000-0000-4000-8000-000000000000";
  if (whole.format === "int64") return "1";
  if (whole.format === "date-time") return new Date(Date.now() + 86_400_000).toISOString();
  if (/email/i.test(name)) return "ada@example.com";
  if (/password/i.test(name)) return "a long enough password";
  if (name === "updateMask") return "name";
  return whole.pattern?.endsWith("s$") ? "3600s" : "…";
}

function sample(schema) {
  const names = schema.required ?? Object.keys(schema.properties ?? {}).filter((name) => /^(text|name)$/.test(name));
  const wanted = [...names, ...("text" in (schema.properties ?? {}) && !names.includes("text") ? ["text"] : [])];
  return Object.fromEntries(wanted.map((name) => [name, example(schema.properties[name], name)]));
}

function curl(path, verb, operation) {
  const filled = path.replace(/\{(\w+)\}/g, (_, name) => `\${${variable(name)}}`);
  const query = (operation.parameters ?? []).filter((one) => one.in === "query" && one.required)
    .map((one) => `${one.name}=\${${variable(one.name.replaceAll(".", "_"))}}`).join("&");
  const lines = [`curl -s${verb === "get" ? "" : ` -X ${verb.toUpperCase()}`} "${base()}${filled}${query && `?${query}`}"`];
  if (operation.security.length) lines.push(`-H "authorization: Bearer \${TOKEN}"`);
  const body = operation.requestBody?.content["application/json"].schema;
  if (body) lines.push(`-H "content-type: application/json"`, `-d '${JSON.stringify(sample(body)).replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n  ");
}

function grpcurl(stream) {
  const plain = location.protocol === "http:" ? "-plaintext " : "";
  return `grpcurl ${plain}-H "authorization: Bearer \${TOKEN}" \\\n  -d '{}' ${location.host} ${stream["x-rpc"]}`;
}

const base = () => new URL(".", location.href).href.replace(/\/$/, "");

function command(text) {
  const code = make("pre", { tabindex: "0" }, text);
  const button = make("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    // Without TLS only this machine's own pages may write to the clipboard: then the text is selected instead.
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else getSelection().selectAllChildren(code);
    button.textContent = navigator.clipboard ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return make("div", { class: "command" }, code, button);
}

// Calls.

function who(security) {
  const kinds = security.flatMap((one) => Object.entries(one)).map(([kind, scopes]) =>
    kind === "user" ? "a signed-in user" : `a service account with the scope ${scopes.join(", ")}`);
  return `Who: ${kinds.length ? kinds.join(", or ") : "anybody, without a token"}.`;
}

function refusals(responses) {
  const rows = Object.entries(responses).filter(([status]) => status !== "200").map(([status, response]) =>
    make("tr", {}, make("td", { class: "status" }, status), make("td"), make("td", {}, prose(response.description))));
  return lazily("statuses and reasons", () => make("table", {}, ...rows));
}

function described(path, verb, operation) {
  const part = (title, content) => [make("h3", {}, title), content];
  const parameters = operation.parameters ?? [];
  const body = operation.requestBody?.content["application/json"].schema;
  const answer = operation.responses["200"];
  const schema = answer.content["application/json"].schema;
  return make("div", { class: "inside" },
    prose(operation.description.replace(/ (?=Errors: )/, "\n")),
    make("p", { class: "who" }, `${who(operation.security)} As gRPC: `, make("code", {}, operation["x-rpc"])),
    command(curl(path, verb, operation)),
    ...(parameters.length ? part("Parameters", make("table", {}, ...parameters.map((one) =>
      row(one.name, one.schema, one.required, `In the ${one.in}. ${one.description}`)))) : []),
    ...(body ? part("Body", fieldsOf(body)) : []),
    ...part("Answer", fieldsOf(resolve(schema))),
    ...part("Refusals", refusals(operation.responses)));
}

function call(id, kind, title, name, words, build) {
  const summary = make("summary", {}, make("span", { class: "verb" }, kind === "stream" ? "STREAM" : kind.toUpperCase()),
    make("code", {}, ...title), make("b", {}, name));
  const details = make("details", { class: `call ${kind}`, id }, summary);
  details.addEventListener("toggle", () => details.append(build()), { once: true });
  calls.push({ element: details, words: words.toLowerCase() });
  return details;
}

function operations(tag) {
  return Object.entries(api.paths).flatMap(([path, item]) => Object.entries(item)
    .filter(([, operation]) => operation.tags.includes(tag.name))
    .map(([verb, operation]) => call(operation.operationId, verb,
      path.split(/(\{\w+\})/).map((part) => (part.startsWith("{") ? make("em", {}, part) : part)), operation.summary,
      `${verb} ${path} ${operation["x-rpc"]} ${operation.description}`, () => described(path, verb, operation))));
}

function streams(tag) {
  return (tag["x-streams"] ?? []).map((stream) => call(stream["x-rpc"].split(".").at(-1).replace("/", "_"), "stream",
    [stream["x-rpc"]], stream.summary, `stream ${stream["x-rpc"]} ${stream.description}`,
    () => make("div", { class: "inside" }, prose(stream.description.replace(/ (?=Errors: )/, "\n")),
      make("p", { class: "who" }, stream.client ? "By gRPC only: browsers send no streams." : "By gRPC and gRPC-Web, without JSON."),
      command(grpcurl(stream)))));
}

function service(tag) {
  const all = [...operations(tag), ...streams(tag)];
  return make("section", { class: "service", id: tag.name, "aria-label": tag.name },
    make("h2", {}, tag.name, make("small", {}, tag["x-package"])), prose(tag.description), ...all);
}

// The list of services, the filter, and what the address names.

function navigation(sections) {
  const lists = {};
  for (const tag of api.tags) {
    const count = sections.get(tag.name).querySelectorAll(".call").length;
    const link = make("a", { href: `#${tag.name}` }, tag.name.replace(/Service$/, ""), make("span", {}, `${count}`));
    (lists[tag["x-package"].split(".")[1]] ??= []).push(make("li", {}, link));
  }
  return Object.entries(lists).flatMap(([name, items]) => [make("h2", {}, name), make("ul", {}, ...items)]);
}

function filter() {
  const words = found("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const one of calls) one.element.hidden = !words.every((word) => one.words.includes(word));
  for (const section of document.querySelectorAll(".service")) {
    section.hidden = !section.querySelector(".call:not([hidden])");
    document.querySelector(`nav a[href="#${section.id}"]`).parentElement.hidden = section.hidden;
  }
  document.querySelector(".about").hidden = words.length > 0;
  const shown = calls.filter((one) => !one.element.hidden).length;
  found("count").textContent = words.length ? `${shown} of ${calls.length} calls` : `${calls.length} calls`;
}

function openNamed() {
  const named = found(decodeURIComponent(location.hash.slice(1)));
  if (named?.hidden || named?.closest("[hidden]")) { found("filter").value = ""; filter(); }
  if (named instanceof HTMLDetailsElement) named.open = true;
  named?.scrollIntoView();
}

function onKey(event) {
  const typing = event.target.closest("input, pre");
  if (event.key === "/" && !typing) { event.preventDefault(); found("filter").focus(); }
  if (event.key === "Escape" && event.target === found("filter")) { found("filter").value = ""; filter(); }
}

function theme(chosen) {
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  if (chosen) document.documentElement.dataset.theme = chosen;
  found("theme").textContent = dark ? "Light" : "Dark";
  found("theme").onclick = () => {
    const next = dark ? "light" : "dark";
    localStorage.setItem("theme", next);
    theme(next);
  };
}

async function start() {
  theme(localStorage.getItem("theme"));
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`openapi.json: ${response.status}`);
  api = await response.json();
  found("version").textContent = api.info.version;
  const sections = new Map(api.tags.map((tag) => [tag.name, service(tag)]));
  const about = prose(api.info.description);
  about.classList.add("about");
  found("services").replaceChildren(...navigation(sections));
  found("content").replaceChildren(about, ...sections.values());
  found("filter").addEventListener("input", filter);
  addEventListener("hashchange", openNamed);
  addEventListener("keydown", onKey);
  filter();
  openNamed();
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => found("content").replaceChildren(make("p", {}, `The reference cannot be shown: ${error.message}`)));
