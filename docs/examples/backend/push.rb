# Push a ticket, a comment and a notification. RT_URL=http://localhost:3002 RT_KEY=irt_… ruby push.rb
require "json"
require "net/http"

# Send operations and return their results. After a failure the same operations are sent again.
def push(operations)
  url = URI(ENV.fetch("RT_URL") + "/api/v1/batch")
  request = Net::HTTP::Post.new(url, "Authorization" => "Bearer #{ENV.fetch("RT_KEY")}", "Content-Type" => "application/json")
  request.body = JSON.generate(operations: operations)
  [0.5, 1, 2, 4, 0].each do |pause|
    begin
      http = { use_ssl: url.scheme == "https", open_timeout: 5, read_timeout: 30 }
      answer = Net::HTTP.start(url.host, url.port, **http) { |connection| connection.request(request) }
      if answer.code == "200"
        results = JSON.parse(answer.body)["results"]
        return results if results.none? { |one| one.dig("error", "code") == "UNAVAILABLE" }
      elsif !%w[429 503].include?(answer.code)
        raise "refused: #{answer.body}" # a wrong key or a malformed request: waiting does not help
      end
    rescue SystemCallError, IOError, Net::OpenTimeout, Net::ReadTimeout
      # not reachable now
    end
    sleep pause
  end
  raise "the realtime server cannot be reached"
end

results = push([
  { op: "ticket.put", ticketId: "42", subject: "Cannot sign in", status: "open", requesterId: "mia" },
  {
    op: "ticket.comment",
    ticketId: "42",
    id: "comment-17",
    kind: "reply",
    author: { id: "ann", name: "Ann" },
    excerpt: "We are looking into it.",
  },
  { op: "notification", id: "reply-17", userId: "mia", type: "reply", title: "Ann has answered" },
])
results.each { |one| puts JSON.generate(one) }
