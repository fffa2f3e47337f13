ALTER TABLE "bookings" ADD COLUMN "settled_by" text;--> statement-breakpoint
ALTER TABLE "bookings" ADD COLUMN "earlier_settlements" jsonb;--> statement-breakpoint
ALTER TABLE "commands" ADD COLUMN "settled_by" text;--> statement-breakpoint
ALTER TABLE "purchases" ADD COLUMN "settled_by" text;--> statement-breakpoint
ALTER TABLE "purchases" ADD COLUMN "earlier_settlements" jsonb;--> statement-breakpoint
ALTER TABLE "webhook_deliveries" ADD COLUMN "subject_id" uuid;--> statement-breakpoint
CREATE INDEX "commands_by_booking" ON "commands" USING btree ("booking_id") WHERE booking_id IS NOT NULL;--> statement-breakpoint
CREATE INDEX "webhook_deliveries_by_subject" ON "webhook_deliveries" USING btree ("subject_id","created_at") WHERE subject_id IS NOT NULL;