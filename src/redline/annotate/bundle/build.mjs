// Bundles CodeMirror for the page, and gathers the licences of what is in the bundle.
import { build } from "esbuild";
import { readFileSync, writeFileSync } from "node:fs";

const target = "../static/codemirror.bundle.mjs";
const { metafile } = await build({
  entryPoints: ["codemirror.mjs"], bundle: true, minify: true, format: "esm", target: "es2022", outfile: target, metafile: true,
  banner: { js: "// CodeMirror, bundled by src/redline/annotate/bundle. Licences: codemirror.bundle.LICENSE.txt" },
});
const packages = new Set();
for (const path of Object.keys(metafile.inputs)) {
  const name = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path);
  if (name) packages.add(name[1]);
}
const notes = [...packages].sort().map((name) => {
  const { version, license } = JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8"));
  return `${name} ${version} (${license})\n\n${readFileSync(`node_modules/${name}/LICENSE`, "utf8").trim()}\n`;
});
writeFileSync("../static/codemirror.bundle.LICENSE.txt", notes.join("\n----\n\n"));
