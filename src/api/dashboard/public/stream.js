/**
 * The stream of /api/dashboard. Invariant: the page shows live data, or says since when it does not. The page reads the stream
 * with fetch, because an EventSource cannot send a key.
 */
import { useEffect, useState } from './hooks.js'
import { keyHeader } from './request.js'

/** Milliseconds without data after which the connection counts as lost; the server sends something at least every second. */
const SILENCE_MS = 3_000
/** Milliseconds before reconnecting: the first pause, and the longest; the pause doubles each time. */
const [RETRY_MS, RETRY_MAX_MS] = [500, 4_000]
/** Milliseconds for which the overview's charts keep samples: five minutes, and a little more than they show. */
const SAMPLES_MS = 330_000

/**
 * @typedef {'connecting' | 'live' | 'lost' | 'hidden'} State
 * @typedef {import('./types.d.ts').Snapshot} Snapshot
 * @typedef {{ state: State, beat_ms: number, arrived_ms: number, snapshot: Snapshot | undefined, samples: Snapshot['throughput'][] }} Stream
 */

/**
 * Follows the stream while `enabled`. `beat_ms` is when the server last sent anything, `arrived_ms` when the newest snapshot came,
 * both by performance.now().
 * @param {boolean} enabled @param {() => void} onRefused called when the API has refused the key
 * @returns {Stream}
 */
export function useStream(enabled, onRefused) {
  const [stream, setStream] = useState(() => empty())
  useEffect(() => {
    if (!enabled) return undefined
    const gone = new AbortController()
    const change = (part) => !gone.signal.aborted && setStream((before) => ({ ...before, ...part }))
    change({ state: 'connecting', beat_ms: performance.now() })
    void follow(gone.signal, {
      onState: (state) => change({ state }),
      onRefused,
      onEvent: (event, data) => setStream((before) => received(before, event, data)),
    })
    return () => gone.abort()
  }, [enabled])
  return stream
}

/** @returns {Stream} */
const empty = () => ({
  state: 'connecting',
  beat_ms: performance.now(),
  arrived_ms: 0,
  snapshot: undefined,
  samples: [],
})

/** @param {Stream} before @returns {Stream} */
function received(before, event, data) {
  const now = performance.now()
  const live = { ...before, state: /** @type {State} */ ('live'), beat_ms: now }
  // Samples come before the first snapshot: the figures are not live yet.
  if (event === 'samples') return { ...before, beat_ms: now, samples: joined(before.samples, data) }
  if (event === 'snapshot') {
    return { ...live, arrived_ms: now, snapshot: data, samples: joined(before.samples, [data.throughput]) }
  }
  // Only a sign of life: render again only if the page showed something else than live data.
  return before.state === 'live' ? Object.assign(before, { beat_ms: now }) : live
}

/** Adds samples; where two have the same time or order is wrong, the server's later list wins. */
function joined(samples, more) {
  const first = Date.parse(more[0]?.at ?? '9999')
  const kept = samples.filter(({ at }) => Date.parse(at) < first && Date.now() - Date.parse(at) < SAMPLES_MS)
  return [...kept, ...more]
}

/**
 * Reads the stream while the tab is visible. A hidden tab reads nothing: it would keep the server busy, and six hidden tabs would
 * use up the browser's connections.
 * @param {AbortSignal} gone
 * @param {{ onState: (state: State) => void, onRefused: () => void, onEvent: (event: string, data: any) => void }} page
 */
async function follow(gone, { onState, onRefused, onEvent }) {
  for (let pause_ms = RETRY_MS; !gone.aborted; pause_ms = Math.min(2 * pause_ms, RETRY_MAX_MS)) {
    if (document.hidden) {
      onState('hidden')
      await new Promise((resolve) => document.addEventListener('visibilitychange', resolve, { once: true }))
      pause_ms = RETRY_MS / 2
      continue
    }
    const silence = new AbortController()
    document.addEventListener('visibilitychange', () => silence.abort(), { signal: silence.signal })
    let timer = setTimeout(() => silence.abort(), SILENCE_MS)
    try {
      const headers = { accept: 'text/event-stream', ...keyHeader() }
      const signal = AbortSignal.any([silence.signal, gone])
      const response = await fetch('/api/dashboard', { headers, cache: 'no-store', signal })
      if (response.status === 401 || response.status === 403) return onRefused()
      if (!response.ok) throw new Error(`${response.status}`)
      for await (const { event, data } of events(response.body)) {
        clearTimeout(timer)
        timer = setTimeout(() => silence.abort(), SILENCE_MS)
        pause_ms = RETRY_MS
        onEvent(event, data && JSON.parse(data))
      }
    } catch {
      // Ignore the error here: the page reports it below and reconnects.
    } finally {
      clearTimeout(timer)
    }
    silence.abort()
    if (document.hidden || gone.aborted) continue
    onState('lost')
    await new Promise((resolve) => setTimeout(resolve, pause_ms))
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    const blocks = (text + value).split('\n\n')
    text = blocks.pop() ?? ''
    for (const block of blocks) {
      const field = (name) =>
        block
          .split('\n')
          .find((line) => line.startsWith(`${name}: `))
          ?.slice(name.length + 2) ?? ''
      yield { event: field('event'), data: field('data') }
    }
  }
}
