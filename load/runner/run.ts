/**
 * `npm run load -- NAME`: runs the k6 script load/scripts/NAME.js with k6 if it is installed, otherwise with the small
 * runner in this folder; checks the invariants afterwards; writes load/reports/NAME.html.
 *
 * Exit codes are k6's (99: a threshold does not hold; 104: options that make no sense; 105: Ctrl-C; 107: an error of
 * the script, also one in an iteration, where k6 goes on and exits with 0); 1: an invariant is broken; 2: an option
 * that cannot be read, or no API.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { answers } from '../../ops/dev/child-process.mjs'
import { readCommand, reasonOf, runningHere } from '../../ops/dev/command.mjs'
import { loadScript, type Result, ScriptError } from './engine.ts'
import { provideModules } from './modules.ts'
import { report, type Verdict } from './report.ts'
import { progressLine, summary } from './summary.ts'
import { InvalidConfig } from './thresholds.ts'

const LOAD = fileURLToPath(new URL('..', import.meta.url))
const SCRIPTS = join(LOAD, 'scripts')
const REPORTS = join(LOAD, 'reports')
const DEFAULT_URL = 'http://127.0.0.1:3000'
const OWN = ['url', 'start', 'workers', 'runner', 'help']
const PROGRESS_MS = 5_000
/** Time limit of the request that checks whether an API answers, in milliseconds. */
const LIVE_MS = 5_000
/**
 * If an iteration began later than this, in milliseconds, the run measured the machine of the script rather than the
 * API.
 */
const LATE_MS = 1_000
const EXIT = { broken: 1, refused: 2, thresholds: 99, config: 104, stopped: 105, script: 107 }

/** An error that is printed as one line. */
class Refusal extends Error {}

const usage = (scripts: string) => `
npm run load -- NAME [OPTIONS]     NAME is ${scripts}, or a file that ends with .js
  --url=URL        the API: BASE_URL, or that of the npm start that runs here, or ${DEFAULT_URL}; when none answers there, a
                   fleet of its own for this run
  --start          a fleet of its own in any case: Postgres, Redis, an API and workers, gone afterwards
  --workers=2      of that fleet
  --runner=node    or k6: not the one that is found
  --NAME=VALUE     (or -e NAME=VALUE) everything else is for the script, as its variable NAME in capitals (docs/load.md)
Exit codes are k6's (99: a threshold does not hold); 1: an invariant is broken; 2: the options make no sense, or no API answers.`

const log = (line: string) => process.stdout.write(`load: ${line}\n`)
const terminal = process.stdout.isTTY
/**
 * Aborts on Ctrl-C. A terminal's Ctrl-C reaches our children too. The run ends, and its servers and folders are
 * removed.
 */
const stop = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => stop.abort())

/** Separates the script's options from the others, which it reads as every command does. */
function readArguments(args: readonly string[]) {
  const own: string[] = []
  const given = new Map<string, string>()
  for (let i = 0; i < args.length; i++) {
    const text = args[i] ?? ''
    const [, name, value = ''] =
      (text === '-e' ? /^(\w+)=(.*)$/s : /^--([\w-]+)(?:=(.*))?$/s).exec(text === '-e' ? (args[++i] ?? '') : text) ?? []
    if (name === undefined && text.startsWith('-') && text !== '-h')
      throw new Refusal(`cannot read ${text}: say --NAME=VALUE`)
    if (name === undefined || (text !== '-e' && OWN.includes(name))) own.push(text)
    else given.set(name.toUpperCase().replaceAll('-', '_'), value)
  }
  const scripts = readdirSync(SCRIPTS)
    .filter(
      (file) => file.endsWith('.js') && readFileSync(join(SCRIPTS, file), 'utf8').includes('export const options'),
    )
    .map((file) => file.slice(0, -'.js'.length))
    .join(', ')
  const { values, words, whole, checkAddresses } = readCommand({
    name: 'load',
    usage: usage(scripts),
    args: own,
    words: 1,
    options: {
      url: { type: 'string' },
      start: { type: 'boolean', default: false },
      workers: { type: 'string', default: '2' },
      runner: { type: 'string' },
    },
  })
  checkAddresses()
  const [name] = words
  if (name === undefined) throw new Refusal(`say which: ${scripts}`)
  const file = name.endsWith('.js') ? name : join(SCRIPTS, `${name}.js`)
  if (!existsSync(file))
    throw new Refusal(`there is no ${name}; there are ${scripts}, or say a file that ends with .js`)
  if (values.runner !== undefined && !['node', 'k6'].includes(values.runner))
    throw new Refusal('--runner accepts node or k6')
  const url = values.url ?? (process.env.BASE_URL || undefined)
  if (url !== undefined && !(URL.canParse(url) && /^https?:/.test(url))) throw new Refusal(`${url} is no URL`)
  return {
    file,
    title: file.replace(/^.*[\\/]|\.js$/g, ''),
    url,
    start: values.start,
    workers: whole('workers'),
    runner: values.runner,
    given,
  }
}
type Arguments = ReturnType<typeof readArguments>

/** Runs the script against one API and returns the exit code. */
async function load(args: Arguments, url: string, database_url: string | undefined): Promise<number> {
  const k6 =
    args.runner === undefined ? spawnSync('k6', ['version'], { stdio: 'ignore' }).status === 0 : args.runner === 'k6'
  log(`${args.title} by ${k6 ? 'k6' : 'the Node runner'} against ${url}`)
  mkdirSync(REPORTS, { recursive: true })
  const path = join(REPORTS, `${args.title}.html`)
  rmSync(path, { force: true })
  const ran = k6 ? await byK6(args, url, path) : await byNode(args, url)
  if (ran.code === EXIT.config || (ran.code === EXIT.script && !ran.result)) return ran.code
  const verdicts = stop.signal.aborted ? 'the run was stopped' : await verdictsOf(database_url)
  if (ran.result) {
    const given = [...args.given].map(([name, value]) => `${name}=${value}`)
    writeFileSync(path, report({ name: args.title, url, given, result: ran.result, verdicts, at: new Date() }))
  }
  if (existsSync(path)) log(`the report is ${path}`)
  const broken = typeof verdicts === 'string' ? 0 : verdicts.filter((one) => one.offenders.length > 0).length
  return broken > 0 ? EXIT.broken : ran.code
}

interface Ran {
  code: number
  /** absent for k6, which writes its own report */
  result?: Result
}

async function byK6({ file, given }: Arguments, url: string, path: string): Promise<Ran> {
  const variables = [...given, ['BASE_URL', url]].flatMap(([name, value]) => ['-e', `${name}=${value}`])
  const dashboard = { K6_WEB_DASHBOARD: 'true', K6_WEB_DASHBOARD_PORT: '-1', K6_WEB_DASHBOARD_EXPORT: path }
  const child = spawn('k6', ['run', ...variables, file], { stdio: 'inherit', env: { ...process.env, ...dashboard } })
  const code = await new Promise<number>((resolve, reject) => {
    child.once('error', (error) => reject(new Refusal(`k6 cannot be run: ${error.message}`)))
    child.once('close', (status) => resolve(status ?? EXIT.broken))
  })
  return { code }
}

async function byNode({ file, given, title }: Arguments, url: string): Promise<Ran> {
  const read = new Set<string>()
  const variables: Record<string, string> = { ...Object.fromEntries(given), BASE_URL: url }
  if (process.env.API_KEY !== undefined) variables.API_KEY ??= process.env.API_KEY
  Object.assign(globalThis, {
    __ENV: new Proxy(variables, {
      get(target, name: string) {
        read.add(name)
        return target[name]
      },
    }),
  })
  provideModules()
  try {
    const script = await loadScript(pathToFileURL(file).href)
    const unread = [...given.keys()].filter((name) => !read.has(name))
    if (unread.length > 0)
      throw new InvalidConfig(`${title} does not read ${unread.join(', ')}; it reads ${[...read].join(', ')}`)
    for (const { name, executor, iterations, duration_s, max_vus } of script.scenarios)
      log(`${name}: ${iterations} iterations in ${duration_s} s (${executor}), up to ${max_vus} VUs`)
    const result = await script.run({
      progress: createProgress(),
      error: (text) => log(`ERROR ${text}`),
      stop: stop.signal,
    })
    if (terminal) process.stdout.write('\n')
    process.stdout.write(`${summary(result)}\n`)
    for (const [message, count] of result.errors) log(`ERROR in ${count} iterations: ${message}`)
    const failed = result.thresholds.filter((one) => !one.passed).map((one) => one.metric)
    if (result.late_ms > LATE_MS)
      log(`this machine was the limit: an iteration began ${Math.round(result.late_ms)} ms after it was due`)
    if (failed.length > 0) log(`thresholds on ${[...new Set(failed)].join(', ')} do not hold`)
    if (result.stopped) return { result, code: EXIT.stopped }
    if (failed.length > 0 || result.aborted) return { result, code: EXIT.thresholds }
    return { result, code: result.errors.size > 0 ? EXIT.script : 0 }
  } catch (error) {
    if (error instanceof InvalidConfig) log(`ERROR ${error.message}`)
    else if (error instanceof ScriptError) log(`ERROR in ${title}: ${error.message}`)
    else throw error
    return { code: error instanceof InvalidConfig ? EXIT.config : EXIT.script }
  }
}

function createProgress() {
  let shown = 0
  return (progress: Parameters<typeof progressLine>[0]) => {
    if (terminal) process.stdout.write(`\r${progressLine(progress)}\x1b[K`)
    else if (progress.seconds * 1_000 >= shown + PROGRESS_MS) {
      shown = progress.seconds * 1_000
      process.stdout.write(`${progressLine(progress)}\n`)
    }
  }
}

/**
 * Waits until no row is queued and returns the verdicts about the invariants, or the reason why they were not checked.
 */
async function verdictsOf(database_url: string | undefined): Promise<readonly Verdict[] | string> {
  if (!database_url) {
    log('the invariants are not checked: DATABASE_URL is not known')
    return 'DATABASE_URL was not known'
  }
  const { drained } = await import('./database.ts')
  const { left, verdicts } = await drained(database_url)
  if (left > 0) {
    log(`BROKEN ${left} rows are still queued`)
    return [...verdicts, { invariant: 'every queue empties', looked_at: left, offenders: [`${left} rows`] }]
  }
  const broken = verdicts.filter((one) => one.offenders.length > 0)
  for (const { invariant, offenders } of broken) log(`BROKEN ${invariant}: ${offenders.join(', ')}`)
  if (broken.length === 0) log(`all ${verdicts.length} invariants hold`)
  return verdicts
}

async function withOwnFleet(args: Arguments): Promise<number> {
  const [{ openEnvironment }, { withHoldfast }] = await Promise.all([
    import('../lib/environment.ts'),
    import('../lib/fleet.ts'),
  ])
  const environment = await openEnvironment(log, { statements: false, appendfsync: 'everysec' })
  try {
    return await environment.withStore((store) =>
      withHoldfast(store, args.workers, ({ url }) => {
        log(`an API and ${args.workers} workers, for this run alone`)
        return load(args, url, store.database_url)
      }),
    )
  } finally {
    await environment.close()
  }
}

async function main(): Promise<number> {
  const args = readArguments(process.argv.slice(2))
  if (args.start) return await withOwnFleet(args)
  const here = args.url === undefined ? runningHere() : {}
  const url = args.url ?? here.HOLDFAST_URL ?? DEFAULT_URL
  if (await answers(new URL('/livez', url), LIVE_MS))
    return await load(args, url, process.env.DATABASE_URL || here.DATABASE_URL)
  if (args.url !== undefined) throw new Refusal(`no API answers at ${new URL('/livez', url)}`)
  log(`no API answers at ${url}: starting everything for this run`)
  return await withOwnFleet(args)
}

process.exit(
  await main().catch((error: unknown) => {
    process.stderr.write(`load: ${error instanceof Refusal ? error.message : reasonOf(error)}\n`)
    return error instanceof Refusal ? EXIT.refused : EXIT.broken
  }),
)
