/** A pending row of a queue: a purchase or its command where units are sold, a booking or its command in a calendar. */
import { resourcesOfBooking } from '../decide/bookings.ts'
import { resourcesOfPurchase } from '../decide/purchases.ts'
import type { BookingItem, PurchaseItem } from '../decide/types.ts'

/** Where a queue continues in the next batch. */
export interface QueueCursor {
  queue: string
  /** only rows with a higher seq are fetched */
  after: number
  /** rows of each kind (purchases, commands, bookings) that it may add to the batch */
  limit: number
}

export type QueueItem = PurchaseItem | BookingItem

/** The purchase or booking that an item settles or is about. */
export const rowOf = (item: QueueItem) => item.purchase ?? item.booking

/** What a waiting client watches: the command, or the purchase or booking itself. */
export const idOf = (item: QueueItem) => item.command?.id ?? rowOf(item).id

/** Every resource that settling this item may write. @throws UnprocessableError */
export const resourcesOf = (item: QueueItem): string[] =>
  item.purchase ? resourcesOfPurchase(item) : resourcesOfBooking(item)
