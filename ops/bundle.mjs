/**
 * The processes that tests start, each as one file: a start costs half the processor time of one that loads every module
 * through the TypeScript loader, and the suite makes hundreds of them. Same sources, same packages; what the commands of
 * package.json start is tested by test/start.test.ts and test/compose.test.ts.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { build } from 'esbuild'
import { ROOT } from './install.mjs'

const ENTRIES = [
  'src/api/main.ts',
  'src/workers/main.ts',
  'ops/sandbox.ts',
  'ops/migrate.ts',
  'test/races/unlocked-worker.ts',
]

/** Writes `src/api/main.mjs` and so on into the folder, which must be below ROOT: packages are found from there. */
export async function bundle(folder) {
  await build({
    entryPoints: ENTRIES.map((entry) => join(ROOT, entry)),
    outbase: ROOT,
    outdir: folder,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    // What is loaded only when it is needed stays so.
    splitting: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    target: 'node20',
    sourcemap: 'inline',
    sourcesContent: false,
    logLevel: 'warning',
    plugins: [{ name: 'place of the source', setup: keepPlaces }],
  })
}

/** Modules that read a file beside them still find it. */
function keepPlaces({ onLoad }) {
  onLoad({ filter: /\/(src|ops|test)\/.*\.m?[jt]s$/ }, async ({ path }) => ({
    contents: (await readFile(path, 'utf8')).replaceAll('import.meta.url', JSON.stringify(pathToFileURL(path).href)),
    loader: path.endsWith('.ts') ? 'ts' : 'js',
  }))
}
