"""The demo: a small helpdesk whose tickets, chats and people move by themselves, for a page that shows it all live.

cast               the people and their texts
in_process_client  a robot's client: the native protocol without a network
helpdesk           what a back end would have: the tickets, and tokens for the visitor
thread             what staff write on the visitor's ticket
stories            what the robots do
routes             the page of the demo
"""

from insightdesk_rt.demo.stories import Demo

__all__ = ["Demo"]
