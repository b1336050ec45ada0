/** Bundles the pages' scripts and xterm.js's style sheet into `static/dist/`. Started by `npm run build`. */
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));

await build({
  absWorkingDir: here,
  entryPoints: [
    { in: "launch.ts", out: "launch" },
    { in: "share.ts", out: "share" },
    { in: "ending.ts", out: "ending" },
    { in: "@xterm/xterm/css/xterm.css", out: "xterm" },
  ],
  outdir: "../static/dist",
  bundle: true,
  minify: true,
  sourcemap: false,
  format: "iife",
  target: ["es2022"],
  charset: "utf8",
  legalComments: "eof",
  logLevel: "warning",
});
