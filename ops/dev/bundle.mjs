/**
 * Bundles each process that tests start into a few files. A start then takes a fifth of the processor time of a start
 * that loads every module through the TypeScript loader, and the suite makes hundreds of starts. Sources and packages
 * are the same. test/ops/start.test.ts and test/ops/compose.test.ts test the commands of package.json, which use no
 * bundle.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { build } from 'esbuild'
import { ROOT } from './install.mjs'

const ENTRIES = [
  'src/api/main.ts',
  'src/workers/main.ts',
  'ops/commands/lab.ts',
  'ops/commands/migrate.ts',
  'ops/commands/sandbox.ts',
  'ops/commands/seed.ts',
  'ops/commands/verify.ts',
  'test/races/unlocked-worker.ts',
]

/**
 * Packages that are not bundled, because they read files beside themselves or must be one instance for all their
 * importers.
 */
const EXTERNAL = [
  '@bull-board/*',
  '@fastify/otel',
  '@fastify/static',
  '@fastify/swagger',
  '@fastify/swagger-ui',
  '@opentelemetry/*',
  'etcd3',
  'pino',
  'prom-client',
  'request-filtering-agent',
  'uplot',
]
/** Defines `require` for CommonJS packages. It resolves from the bundle, which is below ROOT. */
const REQUIRE = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);"

/** Writes `src/api/main.mjs` and so on into the folder, which must be below ROOT, so that Node finds the packages. */
export async function bundle(folder) {
  await build({
    entryPoints: ENTRIES.map((entry) => join(ROOT, entry)),
    outbase: ROOT,
    outdir: folder,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    // Modules that are loaded on demand stay separate files.
    splitting: true,
    external: EXTERNAL,
    banner: { js: REQUIRE },
    platform: 'node',
    format: 'esm',
    target: 'node20',
    // Without this, a tenth of a worker's start was spent on reading comments, white space and an inline source map.
    minifyWhitespace: true,
    minifySyntax: true,
    sourcemap: 'linked',
    sourcesContent: false,
    logLevel: 'warning',
    plugins: [{ name: 'place of the source', setup: keepPlaces }],
  })
}

/** Keeps the paths of our modules that read a file beside them. */
function keepPlaces({ onLoad }) {
  onLoad({ filter: /\/(src|ops|test)\/.*\.m?[jt]s$/ }, async ({ path }) => {
    if (path.includes('/node_modules/')) return
    return {
      contents: (await readFile(path, 'utf8')).replaceAll('import.meta.url', JSON.stringify(pathToFileURL(path).href)),
      loader: path.endsWith('.ts') ? 'ts' : 'js',
    }
  })
}
