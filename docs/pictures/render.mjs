// Draws each picture from its D2 source: `make pictures`. Colors follow the reader's light or dark mode.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { D2 } from "@terrastruct/d2";

const folder = new URL(".", import.meta.url);
const read = (name) => readFileSync(new URL(name, folder), "utf8");
const SHARED = ["style.d2", "render.mjs", "package-lock.json"];

// tests/unit/test_pictures.py compares this hash, so that a picture that is older than its source is found without npm.
function fingerprint(source) {
  const hash = createHash("sha256");
  for (const name of [source, ...SHARED]) hash.update(read(name));
  return hash.digest("hex");
}

const d2 = new D2();
for (const source of readdirSync(folder).sort()) {
  if (!source.endsWith(".d2") || SHARED.includes(source)) continue;
  const fs = { [source]: read(source), "style.d2": read("style.d2") };
  const { diagram, renderOptions } = await d2.compile({ fs, inputPath: source });
  const svg = await d2.render(diagram, { ...renderOptions, scale: 1, salt: source, noXMLTag: true });
  const name = source.replace(/d2$/, "svg");
  writeFileSync(new URL(name, folder), `${svg.trimEnd()}\n<!-- sha256 of the sources: ${fingerprint(source)} -->\n`);
  console.log(`docs/pictures/${name}`);
}
process.exit(0); // The worker thread of D2 would keep Node running.
