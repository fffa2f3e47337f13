/** Watches on one stream: no event is missed while it is cut, and there is no stream without a watch. */
import { EventEmitter } from 'node:events'
import type { IEvent, IKeyValue } from 'etcd3'
import t from 'tap'
import type { EtcdClient } from '../../../src/shared/locks/etcd/client.ts'
import { Revocations } from '../../../src/shared/locks/etcd/revocations.ts'
import { entryOf, idOf, readEntry } from '../../../src/shared/locks/etcd/wait-queue.ts'
import { createFollowedQueues, Watches } from '../../../src/shared/locks/etcd/watch.ts'

interface Request {
  create_request?: { key: Buffer; start_revision: number; watch_id: string }
  cancel_request?: { watch_id: string }
}

class Stream extends EventEmitter {
  written: Request[] = []
  cancelled = false
  write(request: Request): void {
    this.written.push(request)
  }
  cancel(): void {
    this.cancelled = true
  }
  answer(watch_id: string, revision: number, rest: { created?: boolean; canceled?: boolean; events?: IEvent[] }): void {
    this.emit('data', { header: { revision: String(revision) }, watch_id, events: [], ...rest })
  }
}

function watchesOf(t: { teardown(done: () => void): void }) {
  const streams: Stream[] = []
  const client = {
    async watches() {
      streams.push(new Stream())
      return streams.at(-1)
    },
  } as unknown as EtcdClient
  const watches = new Watches(client)
  t.teardown(() => watches.close())
  const stream = async (count: number): Promise<Stream> => {
    while (streams.length < count || !watches.connected()) await new Promise((resolve) => setTimeout(resolve, 2))
    return streams[count - 1] as Stream
  }
  return { watches, stream }
}

function put(key: string, value: Buffer | string, revision: number, create_revision = revision): IEvent {
  const kv = { key: Buffer.from(key), value: Buffer.from(value), lease: '9', version: '1' }
  const revisions = { create_revision: String(create_revision), mod_revision: String(revision) }
  return { type: 'Put', kv: { ...kv, ...revisions } } as unknown as IEvent
}

const nothing = { onEvents() {}, onEnd() {} }
const startOf = ({ written }: Stream) => written.map((one) => one.create_request?.start_revision)

t.test('a stream that is cut: each watch continues behind the last event it received', async (t) => {
  const { watches, stream } = watchesOf(t)
  const seen: string[] = []
  const onEvents = (events: IEvent[]) => void seen.push(...events.map(({ kv }) => kv.key.toString()))
  watches.open({ ...nothing, prefix: 'a/', from: 0, onEvents })
  watches.open({ ...nothing, prefix: 'b/', from: 5 })
  const first = await stream(1)
  t.same(startOf(first), [0, 5])
  first.answer('1', 20, { created: true })
  first.answer('2', 30, { events: [put('b/1', '', 28), put('b/2', '', 30)] })
  first.emit('error', new Error('reset'))
  first.emit('end')
  const second = await stream(2)
  t.same(startOf(second), [21, 31], 'from now on has become a revision')
  second.answer('1', 22, { events: [put('a/1', '', 22)] })
  first.answer('9', 40, { events: [put('a/2', '', 40)] })
  t.same(seen, ['a/1'])
  first.emit('end')
  t.ok(watches.connected(), 'a late end of the first stream does not end the second')
})

t.test('events that etcd has compacted: the watch ends and reports it', async (t) => {
  const { watches, stream } = watchesOf(t)
  let ended = 0
  const end = watches.open({ ...nothing, prefix: 'a/', from: 3, onEnd: () => ended++ })
  const one = await stream(1)
  one.answer('1', 50, { canceled: true })
  end()
  t.same([ended, one.written.length], [1, 1], 'nothing is left to cancel')
})

t.test('the last watch ends: so does the stream, which keeps the process alive', async (t) => {
  const { watches, stream } = watchesOf(t)
  const ends = ['a/', 'b/'].map((prefix) => watches.open({ ...nothing, prefix, from: 0 }))
  const one = await stream(1)
  ends[0]?.()
  t.match(one.written.at(-1), { cancel_request: { watch_id: '1' } })
  t.notOk(one.cancelled)
  ends[1]?.()
  t.ok(one.cancelled)
  t.notOk(watches.connected())
  watches.open({ ...nothing, prefix: 'c/', from: 0 })
  t.not(await stream(2), one)
})

t.test('a release in the queue: wakes the next waiter and no other', async (t) => {
  const { watches, stream } = watchesOf(t)
  const followed = createFollowedQueues(watches)
  const id = (waiter_id: number) =>
    idOf({
      mode: 'exclusive',
      limit: 0,
      ttl_ms: 3000,
      channel: '0a',
      waiter_id,
      uuid: `01234567-89ab-4cde-8f01-23456789abc${waiter_id}`,
      owner: '',
    })
  const queue = [
    put('q/0', entryOf(id(0), 1000), 1),
    put('q/1', entryOf(id(1)), 2),
    put('q/2', entryOf(id(2)), 3),
  ].flatMap(({ kv }) => readEntry(kv as IKeyValue) ?? [])
  const woken: string[] = []
  for (const key of ['q/1', 'q/2']) followed.follow('q/', { queue, revision: 3 }, key, () => void woken.push(key))
  const one = await stream(1)
  t.same([startOf(one), woken], [[4], []])
  const gone = { type: 'Delete', kv: { key: Buffer.from('q/0'), mod_revision: '4' } } as unknown as IEvent
  one.answer('1', 4, { events: [gone] })
  t.same(woken, ['q/1'])
  t.match(followed.current('q/'), { revision: 4, queue: [{ key: 'q/1' }, { key: 'q/2' }] })
  one.emit('end')
  t.equal(followed.current('q/'), undefined, 'unknown while the stream is cut')
})

t.test('revocations: watched while a waiter may have a lock, from where they were left', async (t) => {
  const { watches, stream } = watchesOf(t)
  const revoked: number[] = []
  const revocations = new Revocations(watches, 'robbed/0a/', (waiter_id) => revoked.push(waiter_id))
  t.notOk(watches.connected())
  revocations.markLive(7, 60_000)
  revocations.markLive(8, 0)
  const one = await stream(1)
  one.answer('1', 10, { created: true })
  one.answer('1', 11, { events: [put('robbed/0a/u', '7', 11)] })
  t.same(revoked, [7])
  revocations.unmarkLive(7)
  while (!one.cancelled) await new Promise((resolve) => setTimeout(resolve, 20))
  revocations.markLive(9, 60_000)
  t.same(startOf(await stream(2)), [12])
})
