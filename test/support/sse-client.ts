/**
 * A client of `GET /api/events` that works like an EventSource: it remembers the last id, even if its connection is
 * cut.
 */
import type { Event } from '../../src/shared/outbox.ts'

export interface Listening {
  readonly events: readonly Event[]
  /** the last id that the server sent, with an event or without */
  last(): string | undefined
  /** resolves when the stream is over: `ended` by the server, or `cut` */
  readonly over: Promise<'ended' | 'cut'>
  stop(): void
}

export async function listen(url: string, last_event_id?: string): Promise<Listening> {
  const stop = new AbortController()
  const headers = last_event_id === undefined ? {} : { 'last-event-id': last_event_id }
  const response = await fetch(url, { headers, signal: stop.signal })
  if (!response.ok || !response.body) throw new Error(`${url} → ${response.status} ${await response.text()}`)
  const events: Event[] = []
  let last: string | undefined
  const body = response.body
  async function read(): Promise<void> {
    let text = ''
    const decoder = new TextDecoder()
    for await (const chunk of body) {
      text += decoder.decode(chunk, { stream: true })
      const frames = text.split('\n\n')
      text = frames.pop() ?? ''
      for (const frame of frames) {
        const fields = frame.split('\n').map((line) => /^(\w+): (.*)$/.exec(line)?.slice(1) ?? [])
        const of = (name: string) => fields.find(([field]) => field === name)?.[1]
        last = of('id') ?? last
        const data = of('data')
        if (data !== undefined) events.push(JSON.parse(data))
      }
    }
  }
  const over = read().then(
    () => 'ended' as const,
    () => 'cut' as const,
  )
  return { events, last: () => last, over, stop: () => stop.abort() }
}
