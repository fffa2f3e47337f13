/** Buys everything that is left at the end of a run: `sell all` must succeed, `sell one more` must be refused. */
import type { Client } from './client.ts'
import { DAYS } from './load.ts'
import type { Shelves } from './shelves.ts'

export async function sellOut(
  client: Client,
  { hot, carts, snack, shows, properties, drivers }: Shelves,
): Promise<void> {
  const path = (ref: string) => `/api/resources/${ref.replace(':', '/')}`
  const look = async (ref: string, more = '') =>
    (await client.ask({ op: 'look', intent: ref, method: 'GET', path: `${path(ref)}${more}` })).answer
  let n = 0
  const ask = async (all: boolean, at: 'purchases' | 'bookings', body: Record<string, unknown>) => {
    const op = all ? 'sell all' : 'sell one more'
    const intent = `sellout-${++n}`
    await client.ask({
      op,
      intent,
      method: 'POST',
      path: `/api/${at}`,
      body: { customer: intent, ...body },
      wait_s: 10,
    })
  }
  const buy = (all: boolean, resource: string, units: number) => ask(all, 'purchases', { lines: [{ resource, units }] })

  for (const ref of [...hot, ...carts, snack, ...shows]) {
    const { available } = await look(ref)
    if (available > 0) await buy(true, ref, available)
    await buy(false, ref, 1)
  }
  const [from, to] = [new Date(Date.UTC(2030, 0, 1)), new Date(Date.UTC(2030, 0, 1 + DAYS))].map((one) =>
    one.toISOString(),
  )
  for (const resource of properties) {
    const { free } = await look(resource, `/availability?from=${from}&to=${to}`)
    for (const range of free) await ask(true, 'bookings', { resource, ...range })
    await ask(false, 'bookings', { resource, from: '2030-01-05', to: '2030-01-06' })
  }
  for (const ref of drivers) {
    const { answer } = await client.ask({
      op: 'look',
      intent: ref,
      method: 'GET',
      path: `/api/bookings?resource=${ref}&status=accepted`,
    })
    const taken = answer.data.length > 0
    const ride = (rider: string) => ({
      driver_id: ref.replace('driver:', ''),
      rider_id: `${rider}-${ref.replace(/\W/g, '')}`,
      pickup_lat: 52.5,
      pickup_lng: 13.4,
      customer: undefined,
    })
    if (!taken) await ask(true, 'bookings', ride('last'))
    await ask(false, 'bookings', ride('late'))
  }
}
