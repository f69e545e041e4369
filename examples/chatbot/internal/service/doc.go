// Package service is a small chat bot: an HTTP service whose every request
// begins with "who is this account?".
//
// [Bot] is what the bot does with a message. [Start] puts it behind two
// listeners, one for messages and one for administration, and stops it
// gracefully. It neither knows nor cares whether its repository is cached.
package service
