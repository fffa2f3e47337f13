/**
 * `npm run lab -- NAME`: runs a race of the lab against a running API, without and with protection, and prints both
 * sides in one table. Exit code 1 if the safe side fails in any run or a side could not be measured.
 */
import { randomBytes } from 'node:crypto'
import { readCommand, runningHere } from '../dev/command.mjs'

interface Answer {
  status: number
  // biome-ignore lint/suspicious/noExplicitAny: bodies are looked at field by field
  body: any
}

/** One run of one side. */
interface Run {
  requests: number
  succeeded: number
  /** number of buyers that should have succeeded */
  expected: number
  /** what is left at the end */
  left: number | string
  /** units given out beyond the stock, or without being subtracted from it */
  oversold: number
}

interface Side {
  name: string
  /** condition of every run: exactly `expected` succeeded, and this is left */
  safe?: { left: number | string }
  run(): Promise<Run>
}

/** The reason why a race could not be measured. */
class Unmeasured extends Error {}

const DEFAULT_URL = 'http://127.0.0.1:3000'
const NAMES = ['inventory', 'tickets', 'balance', 'fencing', 'redlock', 'drivers']
const { url, runs, key, name } = readArguments()

async function call(method: string, path: string, body?: unknown, headers: Record<string, string> = {}) {
  const response = await fetch(new URL(path, url), {
    method,
    headers: {
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...(key === undefined ? {} : { 'x-api-key': key }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(30_000),
  }).catch((error: Error) => {
    throw new Unmeasured(`${method} ${path}: ${error.cause instanceof Error ? error.cause.message : error.message}`)
  })
  return { status: response.status, body: await response.json().catch(() => undefined) } as Answer
}

/** Sends a request and returns the answer. Throws Unmeasured if its status is not one of these. */
async function ask(statuses: number[], ...request: Parameters<typeof call>): Promise<Answer> {
  const answer = await call(...request)
  if (statuses.includes(answer.status)) return answer
  const why = answer.status === 404 ? ' (is LAB=0 there?)' : `: ${answer.body?.detail ?? JSON.stringify(answer.body)}`
  throw new Unmeasured(`${request[0]} ${request[1]} was answered ${answer.status}${why}`)
}

/**
 * Both sides of a race in which `buyers` concurrent buyers want a number that is enough for `expected` of them. `unit`:
 * what each buyer takes.
 */
function scarcity(race: {
  buyers: number
  start: number
  unit: number
  reset: [path: string, body?: object]
  buy: [without: string, with_lock: string, body?: object]
  read: () => Promise<number>
}): Side[] {
  const { buyers, start, unit } = race
  const expected = Math.min(buyers, Math.floor(start / unit))
  const [without, with_lock, body] = race.buy
  const side = (path: string) => async (): Promise<Run> => {
    await ask([200], 'POST', ...race.reset)
    const all = await Promise.all(Array.from({ length: buyers }, () => ask([200, 400], 'POST', path, body)))
    const refused = all.find(({ status, body }) => status === 400 && body?.error === undefined)
    if (refused) throw new Unmeasured(`POST ${path}: ${refused.body?.detail}`)
    const succeeded = all.filter(({ status }) => status === 200).length
    const left = await race.read()
    const taken = (start - left) / unit
    return { requests: buyers, succeeded, expected, left, oversold: succeeded - Math.min(succeeded, expected, taken) }
  }
  return [
    { name: 'without lock', run: side(without) },
    { name: 'with lock', safe: { left: start - expected * unit }, run: side(with_lock) },
  ]
}

const read = async (path: string, field: string) => Number((await ask([200], 'GET', path)).body[field])

const inventory = () =>
  scarcity({
    buyers: 5,
    start: 1,
    unit: 1,
    reset: ['/stock/1/reset', { stock: 1 }],
    buy: ['/purchase/without-lock/1', '/purchase/with-lock/1', { quantity: 1 }],
    read: () => read('/stock/1', 'stock'),
  })

const tickets = () =>
  scarcity({
    buyers: 10,
    start: 1,
    unit: 1,
    reset: ['/reset/1'],
    buy: ['/book-no-lock/1', '/book-with-lock/1', { user_name: 'lab' }],
    read: () => read('/events/1', 'available_tickets'),
  })

const balance = () =>
  scarcity({
    buyers: 10,
    start: 1_000,
    unit: 100,
    reset: ['/demo/balance/reset'],
    buy: ['/demo/race-condition/no-lock', '/demo/race-condition/with-lock'],
    read: () => read('/demo/balance', 'balance'),
  })

/**
 * Both sides of the fencing race: three writers of one order, of which only the newest may write. One demonstration
 * gives both.
 */
function fencing(): Side[] {
  const demonstrate = async () => (await ask([200], 'POST', '/demo/fencing/1')).body
  const one = { requests: 3, expected: 1 }
  return [
    {
      name: 'without guard',
      async run() {
        const { without_guard } = await demonstrate()
        const { writes, written_by } = without_guard
        return { ...one, succeeded: writes, left: `written by ${written_by}`, oversold: writes - 1 }
      },
    },
    {
      name: 'fenced',
      safe: { left: 'written by 3' },
      async run() {
        const { workers, order } = await demonstrate()
        const succeeded = workers.filter((worker: { outcome: string }) => worker.outcome === 'written').length
        return { ...one, succeeded, left: `written by ${order.written_by}`, oversold: succeeded - 1 }
      },
    },
  ]
}

/** The Redlock demonstration. It has no unsafe side: a lock without a majority is safe as long as nothing fails. */
function redlock(): Side[] {
  const side = (stopped: number, expected: number): Side => ({
    name: `${stopped} of 5 Redis stopped`,
    safe: { left: `${5 - stopped} Redis` },
    async run() {
      const { steps } = (await ask([200], 'POST', '/demo/redlock')).body
      const step = steps.find((one: { stopped: number }) => one.stopped === stopped)
      const succeeded = Number(step.locked)
      return {
        requests: 1,
        succeeded,
        expected,
        left: `${step.running} Redis`,
        oversold: Math.max(0, succeeded - expected),
      }
    },
  })
  return [side(2, 1), side(3, 0)]
}

/** Both sides of the race of two riders for one driver. The safe side uses the API's own bookings. */
function drivers(): Side[] {
  const riders = ['a', 'b'].map((letter) => `lab-${randomBytes(4).toString('hex')}-${letter}`)
  const told = (requests: number, succeeded: number, left: string): Run => {
    return { requests, succeeded, expected: 1, left, oversold: Math.max(0, succeeded - 1) }
  }
  const release = async () => {
    for (const status of ['requested', 'accepted']) {
      const { body } = await ask([200], 'GET', `/api/bookings?resource=driver:lab&status=${status}`)
      for (const { id } of body.data) await ask([200, 409], 'POST', `/api/bookings/${id}/cancel`)
    }
  }
  return [
    {
      name: 'without lock',
      async run() {
        await ask([200], 'POST', '/demo/drivers/1/reset')
        const all = await Promise.all(
          riders.map((rider_id) => ask([200, 400], 'POST', '/demo/drivers/1/request-no-lock', { rider_id })),
        )
        const taken = all.filter(({ status }) => status === 200)
        return told(all.length, taken.length, `${Math.max(0, ...taken.map(({ body }) => body.rides))} rides`)
      },
    },
    {
      name: 'with lock',
      safe: { left: '1 rides' },
      async run() {
        // 428: the driver exists already.
        await ask([201, 428], 'PUT', '/api/resources/driver/lab', { name: 'Lab driver', kind: 'calendar' })
        await release()
        const ride = (rider_id: string) => ({ driver_id: 'lab', rider_id, pickup_lat: 52.52, pickup_lng: 13.405 })
        const wait = { prefer: 'wait=20' }
        const all = await Promise.all(
          riders.map((rider_id) => ask([201, 409], 'POST', '/api/bookings', ride(rider_id), wait)),
        )
        const { body } = await ask([200], 'GET', '/api/bookings?resource=driver:lab&status=requested')
        await release()
        return told(all.length, all.filter(({ status }) => status === 201).length, `${body.data.length} rides`)
      },
    },
  ]
}

const RACES: Record<string, () => Side[]> = { inventory, tickets, balance, fencing, redlock, drivers }

/** Returns the least and greatest value of a figure over the runs: `0`, or `-4 … -2`. */
function range(values: (number | string)[]): string {
  const distinct = [...new Set(values)].sort((a, b) => Number(a) - Number(b))
  if (distinct.length === 1) return String(distinct[0])
  return distinct.every((value) => typeof value === 'number')
    ? `${distinct[0]} … ${distinct.at(-1)}`
    : distinct.join(', ')
}

function readArguments() {
  const usage = `
npm run lab -- ${NAMES.join('|')} [OPTIONS]
  --url=URL        the API: HOLDFAST_URL, or that of the npm start that runs here, or ${DEFAULT_URL}
  --runs=1         how often
  --key=API_KEY    where the API requires keys
Exit code 1 when the safe side failed or a side could not be measured. 2: the options make no sense.`
  const { values, words, whole, refuse } = readCommand({
    name: 'lab',
    usage,
    words: 1,
    options: { url: { type: 'string' }, runs: { type: 'string', default: '1' }, key: { type: 'string' } },
  })
  const [name = ''] = words
  if (!NAMES.includes(name)) refuse(`${name ? `there is no race "${name}"; ` : ''}say which: ${NAMES.join(', ')}`)
  const url = values.url ?? (process.env.HOLDFAST_URL || (runningHere().HOLDFAST_URL ?? DEFAULT_URL))
  if (!/^https?:/.test(url) || !URL.canParse(url)) refuse(`--url must be a URL, not ${url}`)
  return { name, runs: whole('runs'), url, key: values.key }
}

const rows = [['', 'runs', 'requests', 'succeeded', 'expected', 'left in stock', 'oversold', 'runs gone wrong']]
const failures: string[] = []
for (const side of RACES[name]?.() ?? []) {
  const done: Run[] = []
  let wrong = 0
  try {
    for (let n = 0; n < runs; n++) {
      const one = await side.run()
      done.push(one)
      const right = one.succeeded === one.expected && one.oversold === 0 && (!side.safe || one.left === side.safe.left)
      if (!right) wrong++
    }
  } catch (error) {
    if (!(error instanceof Unmeasured)) throw error
    failures.push(`${side.name}: not measured: ${error.message}`)
  }
  if (side.safe && wrong > 0) failures.push(`${side.name}: ${wrong} of ${done.length} runs went wrong`)
  const sum = (of: (run: Run) => number) => String(done.reduce((total, run) => total + of(run), 0))
  if (done.length === 0) continue
  rows.push([
    side.name,
    String(done.length),
    sum((run) => run.requests),
    sum((run) => run.succeeded),
    sum((run) => run.expected),
    range(done.map((run) => run.left)),
    sum((run) => run.oversold),
    String(wrong),
  ])
}
const widths = rows[0]?.map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0))) ?? []
for (const row of rows) {
  const cells = row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
  process.stdout.write(`${cells.join('  ').trimEnd()}\n`)
}
for (const failure of failures) process.stderr.write(`lab: ${failure}\n`)
process.exitCode = failures.length > 0 ? 1 : 0
