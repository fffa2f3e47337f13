/**
 * Bundles each test file, and each process that tests start, into a few files. A start then takes a fifth of the
 * processor time of a start that loads every module through the TypeScript loader, and the suite makes hundreds of
 * starts. Sources and packages are the same. test/ops/start.test.ts and test/ops/compose.test.ts test the commands of
 * package.json, which use no bundle.
 */
import { readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { build } from 'esbuild'
import { ROOT } from './install.mjs'

const PROCESSES = [
  'src/api/main.ts',
  'src/workers/main.ts',
  'ops/commands/lab.ts',
  'ops/commands/migrate.ts',
  'ops/commands/sandbox.ts',
  'ops/commands/seed.ts',
  'ops/commands/verify.ts',
  'test/races/unlocked-worker.ts',
]
/** Commands whose --help and refusals are tested. */
const COMMANDS = ['load/bench/main.ts', 'load/histories.ts', 'load/runner/run.ts', 'ops/checks/openapi.ts']
/** Test files, and the files that they fork. */
const TEST_FILE = /\.test\.ts$|-(process|contender)\.ts$/

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
/** Packages of tests and commands that are not bundled, for the same reasons or because they may be absent. */
const EXTERNAL_OF_TESTS = [
  'autocannon',
  'axe-core',
  'openapi-typescript',
  'playwright-core',
  'redlock-universal',
  'tap',
]
/** Defines `require` for CommonJS packages. It resolves from the bundle, which is below ROOT. */
const REQUIRE =
  "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);"

/**
 * Writes `src/api/main.mjs`, `test/api/http.test.mjs` and so on into the folder, which must be below ROOT, so that Node
 * finds the packages.
 */
export async function bundle(folder) {
  const files = readdirSync(join(ROOT, 'test'), { recursive: true }).filter((file) => TEST_FILE.test(file))
  const tests = files.map((file) => join('test', file))
  // Built apart: modules that only some entries share become files of their own, and a process should load few files.
  await Promise.all([write(folder, PROCESSES, []), write(folder, [...COMMANDS, ...tests], EXTERNAL_OF_TESTS)])
}

async function write(folder, entries, external) {
  await build({
    entryPoints: entries.map((entry) => join(ROOT, entry)),
    outbase: ROOT,
    outdir: folder,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    // Modules that are loaded on demand stay separate files.
    splitting: true,
    external: [...EXTERNAL, ...external],
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
  onLoad({ filter: /\/(src|ops|load|test)\/.*\.m?[jt]s$/ }, async ({ path }) => {
    if (path.includes('/node_modules/')) return
    return {
      contents: (await readFile(path, 'utf8')).replaceAll('import.meta.url', JSON.stringify(pathToFileURL(path).href)),
      loader: path.endsWith('.ts') ? 'ts' : 'js',
    }
  })
}
