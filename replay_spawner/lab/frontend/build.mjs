/** Bundles JupyterLab's extension into `labextensions/replay-session/`. Started by `npm run build`. */
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));

await build({
  absWorkingDir: here,
  entryPoints: [{ in: "container.ts", out: "session" }],
  outdir: "../labextensions/replay-session",
  bundle: true,
  minify: true,
  sourcemap: false,
  format: "iife",
  target: ["es2022"],
  charset: "utf8",
  logLevel: "warning",
});
