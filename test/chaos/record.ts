/**
 * Records each request of a client with its answer: as a line of JSON in a file, and shortened in memory for the
 * checker. Invariant: a request is recorded once its answer has come or can no longer come.
 */

import { once } from 'node:events'
import { createWriteStream, type WriteStream } from 'node:fs'

/** The members of a purchase or booking in an answer that the checker needs. */
export interface Told {
  id: string
  status: string
  /** members that never change, if the answer has them */
  seq?: number
  customer?: string
  created_at?: string
}

export interface Entry {
  n: number
  /** the part of the load that sent the request */
  op: string
  /** id of the client's intent; further requests with the same intent repeat it */
  intent: string
  /** milliseconds since the load began, just before the request was sent and just after it was answered */
  from_ms: number
  until_ms: number
  method: string
  path: string
  body?: Record<string, unknown>
  key?: string
  wait_s?: number
  /** the API process that got the request */
  to?: string
  /** 0: no answer */
  status: number
  code?: string
  replayed?: boolean
  told?: Told
  /** version of the resource in the answer */
  version?: number
  /** fencing token of the lease in the answer */
  token?: number
}

// biome-ignore lint/suspicious/noExplicitAny: bodies are looked at field by field
type Body = any

/** Returns the id of the purchase or booking in a command's path. */
const subjectOf = (path: string) => /^\/api\/(?:purchases|bookings)\/([0-9a-f-]{36})/.exec(path)?.[1]

function toldBy(path: string, body: Body): Told | undefined {
  const subject = subjectOf(path)
  if (body?.code === 'wrong_status' && subject !== undefined) return { id: subject, status: body.current_status }
  const row = body?.purchase ?? body?.booking ?? body
  if (typeof row?.id !== 'string' || typeof row.status !== 'string') return undefined
  const { id, status, seq, customer, created_at } = row
  return { id, status, seq, customer, created_at }
}

/** Returns the parts of an answer that the checker needs. */
export function inShort(path: string, status: number, headers: Headers, body: Body): Partial<Entry> {
  const told = toldBy(path, body)
  return {
    status,
    ...(typeof body?.code === 'string' && { code: body.code }),
    ...(headers.get('idempotent-replayed') === 'true' && { replayed: true }),
    ...(told && { told }),
    ...(typeof body?.version === 'number' && { version: body.version }),
    ...(typeof body?.fencing_token === 'number' && { token: body.fencing_token }),
  }
}

export interface Recorder {
  readonly entries: readonly Entry[]
  /** `answer`: the whole body, which only the file gets */
  add(entry: Entry, answer: unknown): void
  close(): Promise<void>
}

export function openRecorder(file: string | undefined): Recorder {
  const entries: Entry[] = []
  const out: WriteStream | undefined = file === undefined ? undefined : createWriteStream(file)
  return {
    entries,
    add(entry, answer) {
      entries.push(entry)
      out?.write(`${JSON.stringify({ ...entry, answer })}\n`)
    },
    async close() {
      if (!out) return
      out.end()
      await once(out, 'close')
    },
  }
}
