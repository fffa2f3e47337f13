/**
 * `npm test [-- FILES or options of tap]`: installs what is missing, starts a throw-away Postgres and Redis (not those
 * whose URL is given), migrates a template database that every test file clones, runs tap, and removes all of it again,
 * also after Ctrl-C. Closes with tap's own totals as `N passed, N failed`; its exit code is tap's.
 *
 * `node ops/dev/test.mjs --run FILE [ARGUMENTS]` runs that file in place of tap, where openWorld of
 * test/support/environment.ts finds the same. FILE-options.mjs beside it reads the arguments first: a wrong argument is
 * reported before anything is installed.
 */
import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import { ensureChromium } from './chromium.mjs'
import { readCommand } from './command.mjs'
import { createDatabase, dropDatabase, openServers } from './environment.mjs'
import { ensureEtcdServer, ensureFaketime, ensurePackages, ensureTapPlugins, ROOT, tapCommand } from './install.mjs'
import { killGroup, Refusal, recordPid } from './process-registry.mjs'

const PREFIX = 'holdfast-test-'
const STOP_MS = 5_000
const USAGE = `
npm test [-- FILES OPTIONS]     all tests, or these files, on a throw-away Postgres and Redis
  OPTIONS are tap's: --grep=TEXT, --bail, --timeout=SECONDS, … (npx tap --help)
  DATABASE_URL, REDIS_URL         servers to use instead; tests make databases named holdfast_… there and drop them
Exit code 0 when all tests pass. 2: the options make no sense.`
const terminal = process.stdout.isTTY
const [first, ...others] = process.argv.slice(2)
/** a file and its arguments, which run instead of tap */
const instead = first === '--run' ? others : undefined
const log = (line) => process.stdout.write(`test: ${line}\n`)
/** steps of the cleanup, newest first */
const undo = []
/** the running process, migrate or tap; it leads a group with all processes that it starts */
let child
let interrupted = false

for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(name, () => {
    // npm passes a terminal's Ctrl-C on, so it comes twice. The first one does everything.
    if (interrupted) return
    interrupted = true
    if (child) void killGroup(child.pid, { ask: 'SIGINT', deadline_ms: STOP_MS })
  })
}

const asks_help = ['--help', '-h'].includes(first)
const command = readCommand({ name: 'test', usage: USAGE, args: asks_help ? ['--help'] : [] })
command.checkAddresses()
if (instead) await readOptions(instead)
else refuseMissing(process.argv.slice(2))

let code = 1
let totals
try {
  code = await main()
} catch (error) {
  if (!interrupted) process.stderr.write(`test: ${error instanceof Refusal ? error.message : error.stack}\n`)
} finally {
  for (const step of undo.reverse()) {
    await step().catch((error) => process.stderr.write(`test: while cleaning up: ${error.message}\n`))
  }
}
if (interrupted) code ||= 1
if (!instead) process.stdout.write(`${closing()}\n`)
process.exit(code)

async function readOptions([file = '', ...args]) {
  const { readOptions } = await import(pathToFileURL(join(ROOT, file.replace(/\.ts$/, '-options.mjs'))).href)
  readOptions(args)
}

function refuseMissing(args) {
  const missing = args.find((arg) => /^[^-*?{]+\.[mc]?[jt]sx?$/.test(arg) && !existsSync(arg))
  if (missing !== undefined) command.refuse(`there is no ${missing}`)
}

/** Installs the browser that tests of pages need; without it they are skipped. */
function tryChromium() {
  try {
    ensureChromium(log)
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    log(`tests of pages are skipped: ${error.message}`)
  }
}

/** Refuses options that tap does not know, before anything is started. tap itself would print a stack trace. */
function refuseUnknown(args) {
  if (!args.some((arg) => arg.startsWith('-'))) return
  const { status, stderr } = spawnSync(process.execPath, [tapCommand(), 'versions', ...args], { encoding: 'utf8' })
  if (status !== 0) command.refuse(/Error: (.*?)(\.\s|\n|$)/.exec(stderr)?.[1] ?? stderr.trim().split('\n')[0])
}

async function main() {
  await ensurePackages(log)
  if (!instead) refuseUnknown(process.argv.slice(2))
  ensureTapPlugins(log)
  // Install etcd now, before two test files install it at once. Test files start their own servers.
  ensureEtcdServer(log)
  if (process.platform === 'linux') ensureFaketime(log)
  tryChromium()
  const servers = await openServers({ prefix: PREFIX, owner: 'npm test', log })
  undo.push(() => servers.close())
  const { folder } = servers
  const template = await makeTemplate(servers.postgres_url)
  const env = await neutralEnvironment()
  const migrate = ['--import=tsx', 'ops/commands/migrate.ts']
  if ((await run(folder, 'inherit', migrate, { ...env, DATABASE_URL: template })) !== 0) return 1
  const bundled = await bundleBelow(join(ROOT, 'node_modules', '.cache'))
  const full = {
    ...env,
    HOLDFAST_BUNDLE: bundled,
    HOLDFAST_SERVER_URL: servers.postgres_url,
    HOLDFAST_TEMPLATE_URL: template,
    HOLDFAST_TEST_FOLDER: folder,
    REDIS_URL: servers.redis_url,
  }
  return instead ? await run(folder, 'inherit', ['--import=tsx', ...instead], full) : await runTap(folder, full)
}

/**
 * Returns the environment without variables that configure Holdfast or tap, so that a shell's settings do not affect
 * the tests. Imports the list here, because the TypeScript loader may have been missing before.
 */
async function neutralEnvironment() {
  const { tsImport } = await import('tsx/esm/api')
  const { isConfiguration } = await tsImport('../../src/shared/config.ts', import.meta.url)
  const hidden = (name) => isConfiguration(name) || name.startsWith('TAP_')
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !hidden(name)))
}

/** Imports the bundler here, because its packages may have been missing before. */
async function bundleBelow(cache) {
  const { bundle } = await import('./bundle.mjs')
  mkdirSync(cache, { recursive: true })
  const folder = mkdtempSync(join(cache, PREFIX))
  undo.push(async () => rmSync(folder, { recursive: true, force: true }))
  await bundle(folder)
  return folder
}

/** Creates an empty database. The caller migrates it once, and every test file clones it. */
async function makeTemplate(server_url) {
  const name = `holdfast_template_${randomBytes(6).toString('hex')}`
  const url = await createDatabase(server_url, name)
  undo.push(() => dropDatabase(server_url, name))
  return url
}

async function runTap(folder, env) {
  const args = [tapCommand(), ...process.argv.slice(2)]
  if (!terminal) return await run(folder, 'pipe', [...args, '--no-color'], env)
  // On a terminal tap draws its own report. Without one, read its raw output (with --output-file tap would print it
  // twice).
  const raw = join(folder, 'output.tap')
  const result = await run(folder, 'inherit', [...args, `--output-file=${raw}`], env)
  if (existsSync(raw)) for (const line of readFileSync(raw, 'utf8').split('\n')) readTotals(line)
  return result
}

/**
 * Runs Node in a separate group, and ends the whole group afterwards, because a killed test file may have left
 * processes.
 */
async function run(folder, stdout, args, env) {
  if (interrupted) return 1
  child = spawn(process.execPath, args, { cwd: ROOT, env, detached: true, stdio: ['ignore', stdout, 'inherit'] })
  recordPid(folder, 'tests', child.pid)
  if (stdout === 'pipe') showTerse(child.stdout)
  const result = await new Promise((resolve) => {
    child.once('error', () => resolve(1))
    child.once('close', (status) => resolve(status ?? 1))
  })
  await killGroup(child.pid, { deadline_ms: STOP_MS })
  child = undefined
  return result
}

/**
 * Prints one line per test file, and all output of a failed one. Used without a terminal, because tap's own reporters
 * redraw.
 */
function showTerse(stream) {
  let lines = []
  createInterface({ input: stream }).on('line', (line) => {
    readTotals(line)
    const [, not, name] = /^(not )?ok \d+ - (.*)$/.exec(line) ?? []
    if (name === undefined) return lines.push(line)
    process.stdout.write(not ? `${lines.join('\n')}\n${line}\n` : `ok - ${name}\n`)
    lines = []
  })
}

/**
 * Reads the totals from the last line of tap's raw output, a comment such as `# { total: 9, pass: 5, fail: 1, todo: 1,
 * skip: 2 }`: assertions of all files, counted by its own parser, with a file that crashed or timed out as one more
 * failure.
 */
function readTotals(line) {
  const [, pairs] = /^# \{ (total: .*) \}$/.exec(line) ?? []
  if (pairs) totals = Object.fromEntries(Array.from(pairs.matchAll(/(\w+): (\d+)/g), ([, key, n]) => [key, Number(n)]))
}

/**
 * Returns the last line, `N passed, N failed`. HOLDFAST_FAILED (.ci/run) is the number of failed steps before the
 * tests, which it adds.
 */
function closing() {
  const { pass = 0, fail = 0, skip = 0, todo = 0 } = totals ?? {}
  // A run that failed without a failed assertion (no template, killed, interrupted) counts as failed.
  const failed = Math.max(fail, code === 0 ? 0 : 1) + Number(process.env.HOLDFAST_FAILED ?? 0)
  return `${pass} passed, ${failed} failed${skip + todo > 0 ? `, ${skip + todo} skipped` : ''}`
}
