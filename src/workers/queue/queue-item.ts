/** What stands in a line: purchases with their commands where units are sold, bookings with theirs in a calendar. */
import { type BookingItem, refsOfBooking } from '../decide/bookings.ts'
import { type PurchaseItem, refsOfPurchase } from '../decide/purchases.ts'

/** Where a queue continues in the next batch. */
export interface QueueCursor {
  queue: string
  /** only rows with a higher seq are fetched */
  after: number
  /** rows of each kind (purchases, commands, bookings) that it may add to the batch */
  limit: number
}

export type Item = PurchaseItem | BookingItem

/** The purchase or booking that an item settles or is about. */
export const rowOf = (item: Item) => item.purchase ?? item.booking

/** What a waiting client watches: the command, or the purchase or booking itself. */
export const idOf = (item: Item) => item.command?.id ?? rowOf(item).id

/** Every resource that settling this item may write. @throws UnprocessableError */
export const refsOf = (item: Item): string[] => (item.purchase ? refsOfPurchase(item) : refsOfBooking(item))
