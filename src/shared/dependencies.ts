/**
 * Which servers answer this process: one set of checks for /readyz, the log and the dashboard. Invariant: a check that has no
 * answer yet is not sent again, because checks would pile up while a server hangs.
 */
import type { Log } from './log.ts'
import { every, shareRunning, withTimeout } from './timeout.ts'

/** Milliseconds within which a dependency must answer a check. */
const CHECK_MS = 1_000

export interface Answer {
  status: 'up' | 'down'
  detail?: string
}

export interface DependencyState {
  /** as in /readyz: postgres, redis, locks, etcd */
  name: string
  /** why the last check failed; undefined if it succeeded, or if there was none yet */
  down?: string
  /** when it last answered, or when the process started; milliseconds since 1970 by the clock of this process */
  answered_ms: number
  /** it has not answered this process yet */
  never?: true
  /** when it answered again after an outage; undefined if there was no outage */
  back_ms?: number
}

export interface Dependencies {
  /** Checks all of them; resolves within CHECK_MS, never rejects. */
  check(): Promise<Record<string, Answer>>
  /** what the last checks found, also the checks of other callers */
  states(): DependencyState[]
}

/** @param checks name → a check that rejects when the dependency is down */
export function createDependencies(checks: Readonly<Record<string, () => Promise<unknown>>>): Dependencies {
  const all = Object.entries(checks).map(([name, check]) => {
    const shared = shareRunning(check)
    const state: DependencyState = { name, answered_ms: Date.now(), never: true }
    async function run(): Promise<Answer> {
      const answer = await runCheck(shared)
      if (answer.status === 'up') {
        state.answered_ms = Date.now()
        delete state.never
        if (state.down !== undefined) state.back_ms = state.answered_ms
        delete state.down
      } else state.down = answer.detail ?? 'no response'
      return answer
    }
    return { state, run }
  })
  return {
    check: async () =>
      Object.fromEntries(await Promise.all(all.map(async ({ state, run }) => [state.name, await run()] as const))),
    states: () => all.map(({ state }) => ({ ...state })),
  }
}

async function runCheck(check: () => Promise<unknown>): Promise<Answer> {
  try {
    await withTimeout(check(), CHECK_MS)
    return { status: 'up' }
  } catch (error) {
    return { status: 'down', detail: causeOf(error as Error) }
  }
}

/**
 * Returns the text of a connection error. If a host has several addresses, the error has no message, but contains one error
 * for each address.
 */
function causeOf({ message, code, errors = [] }: Error & { code?: string; errors?: Error[] }): string {
  return message || [...new Set(errors.map((one) => one.message))].join(', ') || code || 'no response'
}

/** Milliseconds between checks. Only two failures in a row are logged, because the first check may precede the connection. */
const WATCH_MS = 2_000
/** Milliseconds after which a dependency that is still down is logged again. */
const REPEAT_MS = 60_000

/** Logs which dependencies do not answer and why: when an outage begins, every REPEAT_MS while it lasts, and when it ends. */
export function watchDependencies(
  { dependencies, log }: { dependencies: Dependencies; log: Log },
  { watch_ms = WATCH_MS, repeat_ms = REPEAT_MS } = {},
) {
  const outages = new Map<string, Outage>()
  async function watchOnce(): Promise<void> {
    for (const [name, answer] of Object.entries(await dependencies.check())) {
      const outage = outages.get(name) ?? { failed: 0, since_ms: performance.now() }
      outages.set(name, outage)
      if (answer.status === 'down') logOutage(log, name, answer.detail, outage, repeat_ms)
      else {
        if (outage.logged_ms !== undefined)
          log.info({ dependency: name, down_s: downSeconds(outage) }, `${name} answers again`)
        outages.delete(name)
      }
    }
  }
  const onError = (error: unknown) => log.error({ error }, 'the dependencies could not be checked')
  watchOnce().catch(onError)
  const stop = every(watch_ms, watchOnce, onError)
  return { close: () => void stop() }
}

interface Outage {
  /** checks that have failed in a row */
  failed: number
  /** times by performance.now() */
  since_ms: number
  logged_ms?: number
}

const downSeconds = ({ since_ms }: Outage) => Math.round((performance.now() - since_ms) / 1000)

function logOutage(log: Log, name: string, detail: string | undefined, outage: Outage, repeat_ms: number): void {
  const now_ms = performance.now()
  outage.failed += 1
  if (outage.failed < 2 || (outage.logged_ms !== undefined && now_ms - outage.logged_ms < repeat_ms)) return
  outage.logged_ms = now_ms
  log.warn({ dependency: name, error: detail, down_s: downSeconds(outage) }, `${name} does not answer`)
}
