/**
 * The stream of /api/dashboard. Invariant: the page shows live data, or says since when it does not. The page reads the stream
 * with fetch, because an EventSource cannot send a key.
 */

/** Milliseconds without data after which the connection counts as lost; the server sends at least every five seconds. */
const SILENCE_MS = 9_000
/** Milliseconds before reconnecting: the first pause, and the longest; the pause doubles each time. */
const [RETRY_MS, RETRY_MAX_MS] = [500, 4_000]

/**
 * Reads the stream while the tab is visible. A hidden tab reads nothing: it would keep the server busy, and six hidden tabs would
 * use up the browser's connections.
 * @param {{key: () => string | null, onEvent: (event: string, data: any) => void, onLost: () => void, onHidden: () => void, onRefused: () => void}} page
 */
export async function follow({ key, onEvent, onLost, onHidden, onRefused }) {
  for (let pause_ms = RETRY_MS; ; pause_ms = Math.min(2 * pause_ms, RETRY_MAX_MS)) {
    if (document.hidden) {
      onHidden()
      await new Promise((resolve) => document.addEventListener('visibilitychange', resolve, { once: true }))
      pause_ms = RETRY_MS / 2
      continue
    }
    const silence = new AbortController()
    document.addEventListener('visibilitychange', () => silence.abort(), { signal: silence.signal })
    let timer = setTimeout(() => silence.abort(), SILENCE_MS)
    try {
      const headers = { accept: 'text/event-stream', ...keyHeader(key()) }
      const response = await fetch('/api/dashboard', { headers, cache: 'no-store', signal: silence.signal })
      if (response.status === 401 || response.status === 403) return onRefused()
      if (!response.ok) throw new Error(`${response.status}`)
      for await (const { event, data } of events(response.body)) {
        clearTimeout(timer)
        timer = setTimeout(() => silence.abort(), SILENCE_MS)
        pause_ms = RETRY_MS
        onEvent(event, JSON.parse(data))
      }
    } catch {
      // Ignore the error here: the page reports it below and reconnects.
    } finally {
      clearTimeout(timer)
    }
    silence.abort()
    if (document.hidden) continue
    onLost()
    await new Promise((resolve) => setTimeout(resolve, pause_ms))
  }
}

export const keyHeader = (key) => (key ? { 'x-api-key': key } : {})

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
