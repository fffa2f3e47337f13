/**
 * The processes that tests start, each as a few files: a start costs a fifth of the processor time of one that loads every
 * module by itself, through the TypeScript loader, and the suite makes hundreds of them. Same sources, same packages; what
 * the commands of package.json start is tested by test/ops/start.test.ts and test/ops/compose.test.ts.
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

/** Loaded as they are: packages that read files beside themselves, or that must be one instance for all their importers. */
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
/** What CommonJS packages ask for by `require` is found from the bundle, which lies below ROOT. */
const REQUIRE = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);"

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
    external: EXTERNAL,
    banner: { js: REQUIRE },
    platform: 'node',
    format: 'esm',
    target: 'node20',
    // A tenth of the start of a worker went to reading comments, white space and a map inside the file.
    minifyWhitespace: true,
    minifySyntax: true,
    sourcemap: 'linked',
    sourcesContent: false,
    logLevel: 'warning',
    plugins: [{ name: 'place of the source', setup: keepPlaces }],
  })
}

/** Our modules that read a file beside them still find it. */
function keepPlaces({ onLoad }) {
  onLoad({ filter: /\/(src|ops|test)\/.*\.m?[jt]s$/ }, async ({ path }) => {
    if (path.includes('/node_modules/')) return
    return {
      contents: (await readFile(path, 'utf8')).replaceAll('import.meta.url', JSON.stringify(pathToFileURL(path).href)),
      loader: path.endsWith('.ts') ? 'ts' : 'js',
    }
  })
}
