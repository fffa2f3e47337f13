/**
 * The stream of /api/dashboard. Invariant: what the page shows is live, or the page says since when it is not. Read by fetch,
 * because an EventSource cannot send a key.
 */

/** Milliseconds without a word after which the connection counts as lost; the server speaks at least every five seconds. */
const SILENCE_MS = 9_000
/** Milliseconds before the connection is tried again, doubled each time up to the second. */
const [AGAIN_MS, LATEST_MS] = [500, 4_000]

/**
 * Nothing is read for a tab that nobody sees: the server rests, and six such tabs would use up the browser's connections.
 * @param {{key: () => string | null, heard: (event: string, data: any) => void, lost: () => void, hidden: () => void, refused: () => void}} room
 */
export async function follow({ key, heard, lost, hidden, refused }) {
  for (let pause_ms = AGAIN_MS; ; pause_ms = Math.min(2 * pause_ms, LATEST_MS)) {
    if (document.hidden) {
      hidden()
      await new Promise((resolve) => document.addEventListener('visibilitychange', resolve, { once: true }))
      pause_ms = AGAIN_MS / 2
      continue
    }
    const silence = new AbortController()
    document.addEventListener('visibilitychange', () => silence.abort(), { signal: silence.signal })
    let timer = setTimeout(() => silence.abort(), SILENCE_MS)
    try {
      const headers = { accept: 'text/event-stream', ...keyHeader(key()) }
      const response = await fetch('/api/dashboard', { headers, cache: 'no-store', signal: silence.signal })
      if (response.status === 401 || response.status === 403) return refused()
      if (!response.ok) throw new Error(`${response.status}`)
      for await (const { event, data } of events(response.body)) {
        clearTimeout(timer)
        timer = setTimeout(() => silence.abort(), SILENCE_MS)
        pause_ms = AGAIN_MS
        heard(event, JSON.parse(data))
      }
    } catch {
      // Whatever it was: the page says so below, and tries again.
    } finally {
      clearTimeout(timer)
    }
    silence.abort()
    if (document.hidden) continue
    lost()
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
