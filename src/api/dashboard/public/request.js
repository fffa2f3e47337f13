/** Requests of the page to the API. Invariant: a request whose component is gone is cancelled, and none starts while the tab is hidden. */
import { useEffect, useState } from './hooks.js'

const KEY = 'holdfast-key'
export const readKey = () => sessionStorage.getItem(KEY)
export const keepKey = (key) => sessionStorage.setItem(KEY, key)
export const dropKey = () => sessionStorage.removeItem(KEY)
export const keyHeader = () => {
  const key = readKey()
  return key ? { 'x-api-key': key } : {}
}

/** Time limit of one request, in milliseconds: longer than any `Prefer: wait` that the page sends. */
const LIMIT_MS = 20_000

/**
 * @param {string} method @param {string} path
 * @param {{ body?: object, headers?: Record<string, string>, signal?: AbortSignal }} options
 * @returns {Promise<{ status: number, body: any }>}
 */
export async function request(method, path, { body, headers = {}, signal } = {}) {
  const json = body === undefined ? {} : { 'content-type': 'application/json' }
  const limit = AbortSignal.timeout(LIMIT_MS)
  const response = await fetch(path, {
    method,
    headers: { ...json, ...keyHeader(), ...headers },
    cache: 'no-store',
    signal: signal ? AbortSignal.any([signal, limit]) : limit,
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  return { status: response.status, body: await response.json() }
}

/**
 * Reads a path, and again every `every_ms` while the tab is visible. Returns the newest body, and the problem of the last
 * request if it failed; after a failure the body stays, so that the page does not go blank.
 * @param {string | undefined} path undefined: reads nothing
 * @param {number} every_ms
 * @returns {{ body: any, problem: string | undefined, status: number | undefined }}
 */
export function useAnswer(path, every_ms) {
  const [answer, setAnswer] = useState({ path, body: undefined, problem: undefined, status: undefined })
  useEffect(() => {
    if (path === undefined) return undefined
    const gone = new AbortController()
    let busy = false
    async function read() {
      if (busy || document.hidden) return
      busy = true
      try {
        const { status, body } = await request('GET', path, { signal: gone.signal })
        const problem = status === 200 ? undefined : (body.detail ?? body.title ?? `${status}`)
        setAnswer((before) => ({
          path,
          status,
          problem,
          body: problem === undefined ? body : before.path === path ? before.body : undefined,
        }))
      } catch {
        // Lost connection: the sentence at the top says so, and the next turn reads again.
        if (!gone.signal.aborted) setAnswer((before) => ({ ...before, problem: 'The server does not answer.' }))
      } finally {
        busy = false
      }
    }
    void read()
    const timer = setInterval(read, every_ms)
    document.addEventListener('visibilitychange', read, { signal: gone.signal })
    return () => {
      clearInterval(timer)
      gone.abort()
    }
  }, [path, every_ms])
  return answer.path === path ? answer : { body: undefined, problem: undefined, status: undefined }
}
