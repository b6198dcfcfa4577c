// Builds dist/esm and dist/cjs: tsc twice, and a package.json that says which folder is which.
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
const formats = { esm: ["module", "NodeNext", "NodeNext"], cjs: ["commonjs", "CommonJS", "Node10"] };

rmSync("dist", { recursive: true, force: true });
for (const [folder, [type, module, resolution]] of Object.entries(formats)) {
  const outDir = `dist/${folder}`;
  execFileSync(process.execPath, [tsc, "--outDir", outDir, "--module", module, "--moduleResolution", resolution], { stdio: "inherit" });
  mkdirSync(outDir, { recursive: true });
  writeFileSync(`${outDir}/package.json`, `${JSON.stringify({ type })}\n`);
}
